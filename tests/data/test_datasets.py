"""Sets in memory: readers, the held-out part, augmentation."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.datasets import Pictures, augment, dataset_names, load_pictures
from zoo.errors import InputError, UnknownName

PICTURES = Pictures(
    torch.arange(20 * 6 * 6 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(20, 6, 6, 3),
    torch.arange(20) % 3,
    ("a", "b", "c"),
)


@given(held_out=st.integers(0, 20), seed=st.integers(0, 5))
def test_split_keeps_every_picture_once(held_out, seed):
    kept, out = PICTURES.split(held_out, seed)
    assert (len(kept), len(out)) == (20 - held_out, held_out)
    every = torch.cat([kept.images, out.images]).flatten(1)
    assert {tuple(row.tolist()) for row in every} == {tuple(row.tolist()) for row in PICTURES.images.flatten(1)}
    assert torch.equal(PICTURES.split(held_out, seed)[1].images, out.images)


@given(size=st.integers(1, 10), padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 9))
def test_each_square_is_a_window_of_its_padded_picture(size, padding, flip, seed):
    side = 6 + 2 * padding
    size = min(size, side)
    squares = augment(PICTURES.images, size, padding, flip, np.random.default_rng(seed))
    assert squares.shape == (20, size, size, 3)
    for square, picture in zip(squares.numpy(), PICTURES.images.numpy(), strict=True):
        padded = np.pad(picture, ((padding, padding), (padding, padding), (0, 0)))
        windows = [padded[i : i + size, j : j + size] for i in range(side - size + 1) for j in range(side - size + 1)]
        assert any((square == w).all() or (flip and (square == w[:, ::-1]).all()) for w in windows)


def test_augment_depends_on_its_generator_alone():
    one, two, three = (augment(PICTURES.images, 6, 2, True, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_reads_the_python_batches_of_the_usual_download(tmp_path):
    """The folder that torchvision makes; written here by its documented layout."""
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
    files = {name: {"data": rows, "labels": [3, 5]} for name, _ in CIFAR10.train_list + CIFAR10.test_list}
    files["batches.meta"] = {"label_names": [f"class{i}" for i in range(10)]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    digest = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:  # the sums of the real files do not hold for these
        patch.setattr(CIFAR10, "train_list", [[name, digest[name]] for name, _ in CIFAR10.train_list])
        patch.setattr(CIFAR10, "test_list", [[name, digest[name]] for name, _ in CIFAR10.test_list])
        patch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digest["batches.meta"]})
        train, test = (load_pictures("cifar10", split, tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (10, 2)
    assert test.labels.tolist() == [3, 5]
    assert np.array_equal(test.images[0].numpy(), rows[0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_unknown_set():
    with pytest.raises(UnknownName, match="no data set 'cifar11'"):
        load_pictures("cifar11", "train")
    assert "cifar10" in dataset_names()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_broken_arrays(tmp_path, content):
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.npz cannot be read"):
        load_pictures("cifar10", "train", tmp_path)


def test_arrays_spoilt_within(tmp_path):
    images = np.random.default_rng(0).integers(0, 9, (400, 4, 4, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "train.npz", images=images, labels=np.zeros(400, np.int64), names=["a"])
    content = bytearray((tmp_path / "train.npz").read_bytes())
    content[200:300] = b"\xff" * 100
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.npz cannot be read: Error -3"):
        load_pictures("cifar10", "train", tmp_path)


def test_arrays_of_the_wrong_kind(tmp_path):
    np.savez(tmp_path / "test.npz", images=np.array(["x"]), labels=np.zeros(1, np.int64), names=["a"])
    with pytest.raises(InputError, match="cannot be read"):
        load_pictures("cifar10", "test", tmp_path)
    np.savez(
        tmp_path / "test.npz", images=np.zeros((2, 4, 4, 3), np.float32), labels=np.zeros(2, np.int64), names=["a"]
    )
    with pytest.raises(InputError, match="uint8"):
        load_pictures("cifar10", "test", tmp_path)
    np.savez(tmp_path / "test.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array([0, 1]), names=["a"])
    with pytest.raises(InputError, match="labels reach"):
        load_pictures("cifar10", "test", tmp_path)
