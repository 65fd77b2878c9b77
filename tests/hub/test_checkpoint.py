"""Headers of safetensors files: what is read, and what broken ones are called."""

import json
import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from zoo.errors import InputError, IntegrityError, WeightsUnavailable
from zoo.hub.checkpoint import facts_for, read_contents, write_whole

STATE = {"a": torch.zeros(3, 4), "b": torch.zeros((), dtype=torch.int64), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}
GOOD = save(STATE, facts_for("net", {"num_classes": 7}, recipe="r"))


def header(table: object, body: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_what_is_in_a_good_file(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    contents = read_contents(path)
    assert contents.shapes == {"a": (3, 4), "b": (), "c": (0, 2)}
    assert contents.dtypes == {"a": "F32", "b": "I64", "c": "BF16"}
    assert contents.facts == {
        "architecture": "net",
        "builder_args": {"num_classes": 7},
        "format": "float",
        "recipe": "r",
    }
    assert set(contents.metadata) == {"zoo"}


@pytest.mark.parametrize("size", [60, 316, 640, 0x4B50])
def test_header_lengths_that_look_like_other_files(tmp_path, size):
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})
    path = tmp_path / "good.safetensors"
    path.write_bytes(header(text.ljust(size).encode(), b"\0"))
    assert read_contents(path).shapes == {"a": (1,)}


def tensor(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


BROKEN = {
    "empty": (b"", "is empty"),
    "five bytes": (GOOD[:5], "header of"),
    "cut in the header": (GOOD[:60], "is cut"),
    "cut in half": (GOOD[: len(GOOD) // 2], "is cut"),
    "one byte short": (GOOD[:-1], "its header promises"),
    "one byte more": (GOOD + b"\0", "its header promises"),
    "header longer than the file": (b"\xff" * 8 + GOOD[8:], "header of"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip archive"),
    "new pickle": (b"\x80\x04\x95\x1d" + bytes(100), "a pickle"),
    "pickle": (b"\x80\x02}q\x00(X\x06\x00\x00\x00" + bytes(100), "a pickle"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
    "page": (b"<!DOCTYPE html><html></html>", "error page"),
    "noise": (b"\1\2\3\4\5\6\7\0" + bytes(40), "no safetensors file"),
    "no JSON": (header(b"{no"), "broken header"),
    "no UTF-8": (header(b"{\xff\xfe}"), "broken header"),
    "deep JSON": (header(b'{"a":' + b"[" * 100_000), "broken header"),
    "unknown type": (header(tensor(dtype="F31"), bytes(8)), "unknown type F31"),
    "type of another width": (header(tensor(dtype="F64"), bytes(8)), "lies at"),
    "negative side": (header(tensor(shape=[-2, -1]), bytes(8)), "the shape"),
    "a gap": (header(tensor(data_offsets=[4, 12]), bytes(12)), "lies at"),
    "no offsets": (header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "broken header"),
    "metadata no map": (header({"__metadata__": 5, **tensor()}, bytes(8)), "broken header"),
    "facts no JSON": (header({"__metadata__": {"zoo": "{"}, **tensor()}, bytes(8)), "broken header"),
    "facts no table": (header({"__metadata__": {"zoo": "[]"}, **tensor()}, bytes(8)), "no table"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_in_one_line(tmp_path, kind):
    content, said = BROKEN[kind]
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        read_contents(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 4


@given(st.integers(0, len(GOOD) - 1))
def test_no_cut_goes_unnoticed(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(GOOD[:length])
    with pytest.raises(IntegrityError):
        read_contents(path)


def test_a_header_far_larger_than_what_it_describes_is_not_decoded(tmp_path):
    """Decoded JSON is some 25 times as large: a header of 8 MB in a file of 8 MB would take 200."""
    path = tmp_path / "headed.safetensors"
    path.write_bytes(header(b'{"a":[' + b"[]," * 2_700_000 + b"0]}"))
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="a header of"):
        read_contents(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_no_file(tmp_path):
    with pytest.raises(WeightsUnavailable, match="no file"):
        read_contents(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        read_contents(tmp_path)


def test_writing_replaces_whole(tmp_path):
    path = tmp_path / "out.safetensors"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out"
    path.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError):
        write_whole(tmp_path / "absent" / "out", b"new")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        write_whole(tmp_path / "file" / "out", b"new")
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        write_whole(tmp_path / ("o" * 300), b"new")
