"""Small sets of files whose classes differ in size."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

COLOURS = {"common": (200, 60, 60), "fair": (60, 200, 60), "rare": (60, 60, 200), "single": (200, 200, 60)}


def write_classes(folder, counts, seed=0, noise=60):
    """One folder of noisy pictures a class, each class of a colour."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, noise, (24, 28, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """Folder of 30, 12, 5 and 1 pictures."""
    counts = {"common": 30, "fair": 12, "rare": 5, "single": 1}
    return write_classes(tmp_path_factory.mktemp("uneven") / "set", counts)


@pytest.fixture(scope="session")
def first_weights(tmp_path_factory):
    """A file of weights for timm's smallest EfficientNet, so that a part of it can be frozen."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "first.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), path)
    return path
