"""Networks over long lists: every input is one row, whoever dies in between, wherever the files lie."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.cli.app import commands
from zoo.data.inputs import addresses, opened
from zoo.data.stores import is_store, list_files, read_bytes, write_bytes
from zoo.errors import InputError, UsageError

ARCH = "reste_resnet20_cifar"  # comes with its weights


def png(seed):
    data = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((32, 32)).save(data, "PNG")
    return data.getvalue()


def shard(path, names):
    """A tar file in webdataset's form, with labels between the pictures."""
    with tarfile.open(path, "w") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 pictures, and one that is none."""
    root = tmp_path_factory.mktemp("bulk") / "pictures"
    root.mkdir()
    for i in range(24):
        (root / f"{i:02d}.png").write_bytes(png(i))
    (root / "07-bad.png").write_text("no picture")
    return root


def run(*args, code=0):
    result = CliRunner().invoke(commands(), [*map(str, args), "--device", "cpu"])
    assert result.exit_code == code, result.output
    return result


def rows(folder, filesystem=None):
    """All rows by source; each source once."""
    table = pyarrow.dataset.dataset(str(folder), format="parquet", filesystem=filesystem).to_table()
    found = {row.pop("source"): row for row in table.to_pylist()}
    assert len(found) == table.num_rows, "a row is there twice"
    return found


def same(found, expected):
    """Whether rows agree; other batches sum in another order, 1e-7 of features of about 1."""
    assert found.keys() == expected.keys()
    for source, row in expected.items():
        assert found[source]["error"] == row["error"]
        if row["error"] is None:
            np.testing.assert_allclose(found[source]["vector"], row["vector"], rtol=0, atol=1e-5)


def test_a_folder_of_parts_holds_what_a_file_holds(pictures, tmp_path):
    run("embed", ARCH, pictures, "--out", tmp_path / "one.parquet", code=1)
    done = run("embed", ARCH, pictures, "--out", f"{tmp_path}/parts/", "--part-size", 10, code=1)
    assert "25 rows in 3 of 3 parts" in done.stderr
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet").to_pylist()
    found = rows(tmp_path / "parts")
    bad = found.pop(str(pictures / "07-bad.png"))
    assert bad["vector"] is None
    assert "is text" in bad["error"]
    same(found, {row["source"]: {"vector": row["vector"], "error": None} for row in table})


def test_labels_in_parts(pictures, tmp_path):
    run("predict", ARCH, pictures, "--out", f"{tmp_path}/parts/", "--topk", 2, code=1)
    printed = [json.loads(line) for line in run("predict", ARCH, pictures, "--jsonl", code=1).stdout.splitlines()]
    found = rows(tmp_path / "parts")
    for row in printed:
        best = row["predictions"][:2]
        there = found[row["source"]]
        assert (there["labels"] or []) == [entry["label"] for entry in best]
        assert (there["indices"] or []) == [entry["index"] for entry in best]


def test_the_list_is_kept_and_another_job_is_refused(pictures, tmp_path):
    out = f"{tmp_path}/parts/"
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(pictures.iterdir())[:12]))
    listed = (tmp_path / "list.txt").read_text()
    CliRunner().invoke(commands(), ["embed", ARCH, "-", "--out", out, "--part-size", "4"], input=listed)
    expected = rows(out)
    assert len(expected) == 12
    (tmp_path / "parts" / "part-000001.parquet").unlink()
    again = CliRunner().invoke(commands(), ["embed", ARCH, "-", "--out", out, "--part-size", "4"], input="")
    assert "4 rows in 1 of 3 parts" in again.stderr, "the list is read from the folder"
    same(rows(out), expected)
    for change in (["--part-size", "5"], ["--part-size", "4", "--dtype", "bfloat16"]):
        other = CliRunner().invoke(commands(), ["embed", ARCH, "-", "--out", out, *change])
        assert isinstance(other.exception, UsageError), change
        assert "holds a job with another" in str(other.exception)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    other = CliRunner().invoke(commands(), ["embed", ARCH, str(pictures), "--out", str(tmp_path / "mine")])
    assert "holds other files: letter.txt" in str(other.exception)


def test_nothing_begins_where_an_input_stands_for_nothing(pictures, tmp_path):
    done = CliRunner().invoke(commands(), ["embed", ARCH, str(pictures), f"{tmp_path}/no*", "--out", f"{tmp_path}/o/"])
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "o").exists()


def test_parts_of_bad_inputs_alone_fit_the_others(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_text("bad")
    (tmp_path / "d.png").write_bytes(png(0))
    run("embed", ARCH, tmp_path, "--out", f"{tmp_path}/parts/", "--part-size", 2, code=1)
    found = rows(tmp_path / "parts")
    assert [len(row["vector"] or []) for row in found.values()] == [0, 0, 0, 64]


# killed


def start(*args, processes=0):
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--max-restarts", "20"]
    return subprocess.Popen(
        [sys.executable, *(command if processes else []), "-m", "zoo", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def workers_of(running):
    """Processes below torchrun that share the work."""
    import psutil

    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(running.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that was killed has no command line until torchrun notices
                found += [child] if "embed" in child.cmdline() else []
    return found


def until_parts(out, count, running, seconds=240):
    end = time.monotonic() + seconds
    while len(list(Path(out).glob("part-*"))) < count and running.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1500 pictures as two shards and a list; what they give undisturbed."""
    root = tmp_path_factory.mktemp("many")
    (root / "p").mkdir()
    for i in range(1500):
        (root / "p" / f"{i:04d}.png").write_bytes(png(i))
    for k in range(2):
        shard(root / f"s{k}.tar", {f"{i:04d}.png": (root / "p" / f"{i:04d}.png").read_bytes() for i in range(k, 60, 2)})
    listed = pyarrow.table({"path": [f"p/{i:04d}.png" for i in range(1500)]})
    pyarrow.parquet.write_table(listed, root / "list.parquet")
    inputs = [root / "list.parquet", root / "s0.tar", root / "s1.tar"]
    run("embed", ARCH, *inputs, "--out", f"{root}/whole/", "--part-size", 10)
    return inputs, rows(root / "whole")


def killed(many, out, kills, seed, processes):
    """The rows after workers and at last the whole group were killed, and one process finished the job."""
    inputs, expected = many
    rng = np.random.default_rng(seed)
    args = ["embed", ARCH, *inputs, "--out", f"{out}/", "--part-size", 10, "--device", "cpu", "--batch-size", 4]
    running = start(*args, processes=processes)
    try:
        for stop in sorted(rng.integers(1, 120, kills)):
            until_parts(out, int(stop), running)
            victims = workers_of(running)
            if victims:
                victims[rng.integers(len(victims))].kill()
        until_parts(out, 130, running)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        for child in workers_of(running) if running.poll() is None else []:
            child.kill()
        running.wait()
    before = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    run(*args[:-4])
    after = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    assert before.items() <= after.items(), "a part that was there is left alone"
    assert len(before) >= 1
    same(rows(out), expected)


def test_killed_workers_lose_nothing_and_double_nothing(many, tmp_path):
    killed(many, tmp_path / "out", kills=1, seed=0, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_at_random_again_and_again(many, tmp_path, seed):
    killed(many, tmp_path / "out", kills=4, seed=seed, processes=2)


# lists, shards, stores


def names(inputs):
    return [item if isinstance(item, str | InputError) else item.name for item in opened(addresses(inputs))]


def test_shards_and_lists_stand_for_their_pictures(pictures, tmp_path):
    shard(tmp_path / "s.tar", {"a.png": png(0), "a.cls": b"3", "in/b.jpg": b"bad", "c.txt": b"text"})
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "path": ["x.png", "/far/y.png"]}), tmp_path / "l.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"url": ["http://127.0.0.1:9/x.png"]}), tmp_path / "u.parquet")
    assert names([tmp_path / "s.tar"]) == [f"{tmp_path}/s.tar/a.png", f"{tmp_path}/s.tar/in/b.jpg"]
    assert list(addresses([tmp_path / "l.parquet"])) == [f"{tmp_path}/x.png", "/far/y.png"]
    assert names([f"{tmp_path}/*.tar", pictures / "00.png"])[-1] == str(pictures / "00.png")
    (refused,) = names([tmp_path / "u.parquet"])
    assert isinstance(refused, InputError)
    pyarrow.parquet.write_table(pyarrow.table({"name": ["x"]}), tmp_path / "n.parquet")
    (wrong,) = names([tmp_path / "n.parquet"])
    assert "has the columns name" in wrong.message
    (tmp_path / "b.parquet").write_text("no list")
    (broken,) = names([tmp_path / "b.parquet"])
    assert "cannot be read" in broken.message


@pytest.mark.parametrize("damage", ["cut in a picture", "cut before a header", "a header spoilt"])
def test_a_damaged_shard_says_so(tmp_path, damage):
    shard(tmp_path / "s.tar", {f"{i}.png": png(i) for i in range(4)})
    data = bytearray((tmp_path / "s.tar").read_bytes())
    with tarfile.open(tmp_path / "s.tar") as tar:
        third = tar.getmember("2.png")
    if damage == "a header spoilt":
        data[third.offset : third.offset + 100] = bytes(range(100))
    else:
        del data[third.offset + (600 if "picture" in damage else 0) :]
    (tmp_path / "s.tar").write_bytes(data)
    *good, fault = names([tmp_path / "s.tar"])
    assert good == [f"{tmp_path}/s.tar/0.png", f"{tmp_path}/s.tar/1.png"]
    assert "the shard is damaged" in fault.message


def test_a_shard_without_pictures_is_one_bad_input(tmp_path):
    shard(tmp_path / "s.tar", {"a.txt": b"x"})
    (fault,) = names([tmp_path / "s.tar"])
    assert "no picture in this shard" in fault.message


def test_what_cannot_be_had_keeps_its_address(pictures, tmp_path):
    (tmp_path / "a:b").mkdir()
    (tmp_path / "bad.parquet").write_text("no list")
    given = ["http://127.0.0.1:9/x.png", "memory://gone/", tmp_path / "a:b", tmp_path / "bad.parquet"]
    table = run("predict", ARCH, *given, pictures / "00.png", "--csv", code=1).stdout
    found = [row["source"] for row in csv.DictReader(io.StringIO(table)) if row["error"]]
    assert found == [str(source) for source in given]
    run("embed", ARCH, given[0], pictures / "00.png", "--out", f"{tmp_path}/parts/", code=1)
    rows = pyarrow.parquet.read_table(tmp_path / "parts" / "part-000000.parquet")
    assert rows["source"].to_pylist() == [given[0], str(pictures / "00.png")]


@pytest.mark.parametrize("text", ["s3://b/x", "memory://x", "file:///x", "simplecache::s3://b/x"])
def test_addresses_of_stores(text):
    assert is_store(text)


@pytest.mark.parametrize("text", ["http://x/y", "HTTPS://x", "a/b.png", "c:\\x", "://", "-", "x: y//z"])
def test_no_addresses_of_stores(text):
    assert not is_store(text)


def test_bad_addresses_are_one_line():
    with pytest.raises(InputError, match="nothing://x: Protocol not known"):
        read_bytes("nothing://x")
    with pytest.raises(InputError, match="no such file"):
        read_bytes("memory://not/there.png")
    write_bytes("memory://long/x.bin", bytes(2**20 + 1))
    with pytest.raises(InputError, match="more than 1 MiB"):
        read_bytes("memory://long/x.bin", max_bytes=2**20)
    with pytest.raises(InputError, match="no picture there"):
        list(list_files("memory://long/", {".png"}))


@pytest.fixture(scope="module")
def s3():
    """An object store of a server on this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(key, value)
    fsspec.filesystem("s3").mkdir("zoo-bucket")
    yield "s3://zoo-bucket"
    patch.undo()
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}"


def test_stores_give_pictures_and_take_parts(store, pictures, tmp_path):
    for path in sorted(pictures.iterdir())[:9]:
        write_bytes(f"{store}/in/{path.name}", path.read_bytes())
    shard(tmp_path / "s.tar", {"a.png": png(100), "b.png": png(101)})
    write_bytes(f"{store}/s.tar", (tmp_path / "s.tar").read_bytes())
    listed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": ["in/00.png", "in/gone.png"]}), listed)
    write_bytes(f"{store}/l.parquet", listed.getvalue())
    inputs = [f"{store}/in", f"{store}/s.tar", f"{store}/in/*0.png"]
    run("embed", ARCH, *inputs, "--out", f"{store}/out", "--part-size", 5, code=1)
    system, path = fsspec.core.url_to_fs(f"{store}/out")
    table = pyarrow.dataset.dataset(path, format="parquet", filesystem=system).to_table().to_pylist()
    there = [path.name for path in sorted(pictures.iterdir())[:9]]
    assert [row["source"].rpartition("/")[2] for row in table] == [*there, "a.png", "b.png", "00.png"]
    assert sum(row["error"] is not None for row in table) == 1
    again = run("embed", ARCH, *inputs, "--out", f"{store}/out", "--part-size", 5)
    assert "0 rows in 0 of" in again.stderr
    gone = run("predict", ARCH, f"{store}/l.parquet", f"{store}/in/00.png", "--jsonl", code=1)
    errors = [json.loads(line)["error"] for line in gone.stdout.splitlines()]
    assert [error is None for error in errors] == [True, False, True]
    assert "no such file" in errors[1]["message"]
