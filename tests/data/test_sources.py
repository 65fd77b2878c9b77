"""Sets of files: each form gives the same pictures, and says what is wrong with a broken one."""

import csv
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.datasets import Pictures
from zoo.data.sources import Samples, aligned, array_samples, open_data
from zoo.errors import InputError, UsageError

NAMES = ("cat", "dog", "owl")
COUNT = 9


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, pictures):
    """One set of nine pictures as class folders, lists, shards and in the form of datasets."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("sets")
    for i, picture in enumerate(pictures):
        place = root / "folders" / "train" / NAMES[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i}.png")
    lists = root / "lists"
    lists.mkdir()
    rows = [(f"../folders/train/{NAMES[i % 3]}/{i}.png", NAMES[i % 3]) for i in range(COUNT)]
    with (lists / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    pq.write_table(pa.table({"path": [r[0] for r in rows], "label": [r[1] for r in rows]}), root / "all.parquet")
    (root / "all.parquet").rename(lists / "other.parquet")
    shards = root / "shards"
    shards.mkdir()
    for shard in range(2):
        with tarfile.open(shards / f"train-{shard:03d}.tar", "w") as tar:
            for i in range(shard, COUNT, 2):
                add(tar, f"a/{i:03d}.png", png(pictures[i]))
                add(tar, f"a/{i:03d}.cls", str(i % 3).encode())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    columns = {"image": [{"bytes": png(p), "path": None} for p in pictures], "label": [i % 3 for i in range(COUNT)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(root / "hf")
    return root


def png(picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def contents(samples):
    return sorted((int(label), np.asarray(samples.image(i)).tobytes()) for i, label in enumerate(samples.labels))


@pytest.mark.parametrize("name", ["folders", "lists", "lists/other.parquet", "shards", "shards/*.tar", "hf:{}/hf"])
def test_every_form_gives_the_same_pictures(name, root, pictures):
    found = open_data(name.format(root), "train", root)
    assert contents(found) == sorted((i % 3, np.asarray(p).tobytes()) for i, p in enumerate(pictures))
    assert found.names == (("0", "1", "2") if "shards" in name else NAMES)
    assert contents(pickle.loads(pickle.dumps(found))) == contents(found)  # as a worker process gets it
    assert aligned(found, NAMES, name).names == NAMES


def test_a_folder_without_parts_is_the_part(root):
    assert len(open_data("folders/train", "test", root)) == COUNT


def test_torchvision(tmp_path, pictures):
    for i, picture in enumerate(pictures):
        place = tmp_path / "eurosat" / "2750" / NAMES[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB").save(place / f"{i}.jpg")
    found = open_data("torchvision:EuroSAT", "train", tmp_path)
    assert found.names == NAMES
    assert found.labels.bincount().tolist() == [3, 3, 3]
    assert found.image(0).size == (12, 10)


def test_split_and_selection(root):
    found = open_data("folders", "train", root)
    kept, out = found.split(4, seed=1)
    assert sorted(contents(kept) + contents(out)) == contents(found)
    assert torch.equal(found.split(4, seed=1)[1].rows, out.rows)


def test_classes_are_matched_by_name(root):
    found = open_data("folders", "train", root)
    network = ("zebra", "OWL", "Dog", "cat")
    moved = aligned(found, network, "folders")
    assert [network[k].lower() for k in moved.labels] == [NAMES[k] for k in found.labels]
    with pytest.raises(UsageError, match="folders: no class is called owl"):
        aligned(found, ("cat", "dog"), "folders")


def test_numbers_as_names_of_folders_are_the_classes(tmp_path, pictures):
    for number in ("2", "10"):  # by name, 10 comes first
        (tmp_path / number).mkdir()
        pictures[int(number) % 9].save(tmp_path / number / "a.png")
    found = open_data(".", "test", tmp_path)
    names = tuple(f"class {k}" for k in range(11))
    labels = {np.asarray(p).tobytes(): k for k, p in ((2, pictures[2]), (10, pictures[1]))}
    assert {content: label for label, content in contents(aligned(found, names, "set"))} == labels
    rest = found[found.labels == found.names.index("2")]
    assert aligned(rest, ("1", "10", "2"), "set").labels.tolist() == [2]  # names that are numbers are names first
    with pytest.raises(UsageError, match="no class is called 10"):
        aligned(found, names[:10], "set")


def test_lists_of_spreadsheets_and_odd_numbers(tmp_path):
    (tmp_path / "sheet.csv").write_text("path,label\na.png,cat\n", encoding="utf-8-sig")
    assert open_data("sheet.csv", "test", tmp_path).names == ("cat",)
    (tmp_path / "odd.csv").write_text("path,label\na.png,\u00b2\n", encoding="utf-8")
    assert open_data("odd.csv", "test", tmp_path).names == ("\u00b2",)  # a digit to Python, and no number


def test_a_bad_file_is_an_error_of_its_own(root, tmp_path):
    place = tmp_path / "cat"
    place.mkdir()
    (place / "a.png").write_bytes(b"no picture")
    found = open_data(str(tmp_path), "train")
    with pytest.raises(InputError, match=r"a\.png is text"):
        found.image(0)
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        add(tar, "x.png", b"\x89PNG cut")
        add(tar, "x.cls", b"0")
    bad = open_data(str(tmp_path / "bad.tar"), "train")
    with pytest.raises(InputError, match=r"bad\.tar/x\.png"):
        bad.image(0)
    assert "x.png" in bad.item(0).message


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("nowhere", InputError, "neither a published set nor a file or folder"),
        ("empty", InputError, "holds no class folders"),
        ("cut.tar", InputError, r"cut\.tar cannot be read"),
        ("alone.tar", InputError, "has no label"),
        ("columns.csv", InputError, "cannot be read.*path"),
        ("columns.parquet", InputError, "cannot be read"),
        ("short.csv", InputError, "row 2 lacks a path or a label"),
        ("blank.csv", InputError, "row 1 lacks a path or a label"),
        ("hf:{}/empty", InputError, "hf:"),
        ("torchvision:Nothing", UsageError, "torchvision has no set 'Nothing'"),
        ("torchvision:Food101", InputError, "torchvision:Food101 under"),
    ],
)
def test_what_cannot_be_read_is_named(name, error, says, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.tar").write_bytes(b"not a tar")
    with tarfile.open(tmp_path / "alone.tar", "w") as tar:
        add(tar, "x.png", b"x")
    (tmp_path / "columns.csv").write_text("file,label\na.png,1\n")
    (tmp_path / "short.csv").write_text("path,label\na.png,cat\nb.png\n")
    (tmp_path / "blank.csv").write_text("path,label\na.png,\n")
    (tmp_path / "columns.parquet").write_bytes(b"PAR1")
    with pytest.raises(error, match=says):
        open_data(name.format(tmp_path), "train", tmp_path)


def test_arrays_in_the_other_form(pictures):
    arrays = Pictures(torch.from_numpy(np.stack(pictures)), torch.arange(COUNT) % 3, NAMES)
    samples = array_samples(arrays)
    assert isinstance(samples, Samples)
    assert np.array_equal(np.asarray(samples.image(4)), np.asarray(pictures[4]))
