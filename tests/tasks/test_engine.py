"""Which engine runs a packed file, and that both give the same answers."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from tests.goldens import Golden
from zoo.convert import rename
from zoo.errors import IntegrityError, UsageError
from zoo.hub.checkpoint import facts_for
from zoo.layers.packing import FORMAT, pack

ARCH = "reste_resnet20_cifar"
PICTURES = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(12)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed file with the goldens' weights."""
    model = zoo.create_model(ARCH)
    model.load_state_dict(rename(Golden(ARCH).authors_state(), model.authors_keys))
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    save_file(pack(model), path, facts_for(ARCH, {"num_classes": 10, "act_bits": 1}, FORMAT))
    return path


def altered(path, folder, **changes):
    """The file with tensors replaced, or dropped where the new one is None."""
    tensors = {**load_file(path), **changes}
    out = folder / "altered.safetensors"
    kept = {key: value for key, value in tensors.items() if value is not None}
    save_file(kept, out, facts_for(ARCH, {"num_classes": 10, "act_bits": 1}, FORMAT))
    return out


def test_packed_file_runs_from_its_bits_and_float_agrees(packed):
    pytest.importorskip("llvmlite")
    bits = zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed, probabilities=True)
    floats = zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed, probabilities=True, engine="float")
    assert bits.engine.startswith("packed (llvm")
    assert floats.engine == "float: asked for"
    for ours, theirs in zip(bits(PICTURES), floats(PICTURES), strict=True):
        assert ours.labels == theirs.labels
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def test_setting_chooses(packed, monkeypatch):
    monkeypatch.setenv("ZOO_ENGINE", "float")
    assert zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed).engine == "float: asked for"
    monkeypatch.setenv("ZOO_ENGINE", "fast")
    with pytest.raises(UsageError, match="ZOO_ENGINE is 'fast'"):
        zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed)


def test_other_types_fall_back_and_say_so(packed):
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed, dtype="bfloat16", engine="packed")
    assert pipe.engine.startswith("float: packed kernels calculate in float32")
    with pytest.raises(UsageError, match="no engine 'warp'"):
        zoo.pipeline(ARCH, device="cpu", checkpoint_path=packed, engine="warp")


LAYER = "layer1.0.conv1"


@pytest.mark.parametrize(
    "changes",
    [
        {f"{LAYER}.weight_scale": torch.tensor([float("nan")])},
        {f"{LAYER}.weight_scale": torch.tensor([-1.0])},
        {f"{LAYER}.weight_scale": None},
        {f"{LAYER}.weight_packed": torch.zeros(16, 3, 3, 1, dtype=torch.uint8)},
        {f"{LAYER}.weight_packed": None},
        {"fc.weight": torch.full((10, 64), float("inf"))},
        {"fc.weight": torch.zeros(10, 32)},
        {"conv1.weight": None},
    ],
    ids=lambda changes: " ".join(
        f"{key} {'dropped' if value is None else 'changed'}" for key, value in changes.items()
    ),
)
@pytest.mark.parametrize("engine", ["packed", "float"])
def test_packed_file_that_does_not_fit(packed, tmp_path, changes, engine):
    file = altered(packed, tmp_path, **changes)
    with pytest.raises(IntegrityError, match=ARCH):
        zoo.pipeline(ARCH, device="cpu", checkpoint_path=file, engine=engine)


def test_packed_file_of_another_architecture(packed):
    with pytest.raises(IntegrityError, match="is a reste_resnet20_cifar, not a reste_resnet18_cifar"):
        zoo.pipeline("reste_resnet18_cifar", device="cpu", checkpoint_path=packed)
