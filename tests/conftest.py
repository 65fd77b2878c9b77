"""What all tests share: hypothesis without deadlines, and a small set in CIFAR-10's form."""

import numpy as np
import pytest
from hypothesis import settings

# First calls compile, machines are busy: time says nothing about a property. A change is judged by the same examples
# every time, not by the day's luck; `pytest --hypothesis-profile nightly` looks for rare ones, new ones each time.
settings.register_profile("default", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("default")

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Folder with `cifar10/train.npz` and `test.npz`: 96 noisy pictures, a colour for each class."""
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (10, 1, 1, 3))
    for split, count in (("train", 96), ("test", 40)):
        labels = rng.permutation(np.arange(count) % 10)
        images = np.clip(colours[labels] + rng.normal(0, 30, (count, 32, 32, 3)), 0, 255).astype(np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=labels.astype(np.int64), names=NAMES)
    return folder.parent
