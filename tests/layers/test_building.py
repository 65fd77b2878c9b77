"""The plain way to a network against timm's: the same network, the same weights; timm stays unimported where it can."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg

import zoo
from zoo.build import pretrained_cfg
from zoo.layers.packing import unpack
from zoo.models.reste import ReSTEResNet, reste_resnet20_cifar

ARGS = {"depths": (3, 3, 3), "widths": (16, 32, 64), "shortcut": "pad", "init": "all"}


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 7}, {"in_chans": 1}, {"num_classes": 0}, {"act_bits": 32}])
def test_plain_and_timm_build_the_same(kwargs):
    cfg = pretrained_cfg(zoo.card("reste_resnet20_cifar"))
    torch.manual_seed(0)
    plain = reste_resnet20_cifar(pretrained_cfg=cfg, **kwargs)
    torch.manual_seed(0)
    timms = build_model_with_cfg(ReSTEResNet, "reste_resnet20_cifar", False, pretrained_cfg=cfg, **ARGS, **kwargs)
    ours, theirs = plain.state_dict(), timms.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert plain.num_classes == timms.num_classes
    assert {key: timms.pretrained_cfg[key] for key in cfg if cfg[key] is not None} == {
        key: value for key, value in plain.pretrained_cfg.items() if value is not None
    }


def test_weights_are_the_same_either_way(tmp_path):
    torch.manual_seed(0)
    source = zoo.create_model("reste_resnet20_cifar")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    cfg = {**pretrained_cfg(zoo.card("reste_resnet20_cifar")), "file": str(tmp_path / "w.safetensors")}
    plain = reste_resnet20_cifar(True, pretrained_cfg=cfg)
    timms = build_model_with_cfg(
        ReSTEResNet, "reste_resnet20_cifar", True, pretrained_cfg=cfg, pretrained_filter_fn=unpack, **ARGS
    )
    for model in (plain, timms):
        assert all(torch.equal(model.state_dict()[key], value) for key, value in source.state_dict().items())


def test_a_fresh_head_and_pyramids_are_timms(tmp_path):
    source = zoo.create_model("reste_resnet20_cifar")
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=tmp_path / "w.safetensors", num_classes=3)
    assert model.fc.weight.shape == (3, 64)
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    pyramid = zoo.create_model("reste_resnet20_cifar", features_only=True)(torch.rand(1, 3, 32, 32))
    assert [m.shape[1] for m in pyramid] == [16, 32, 64]


def test_prediction_imports_neither_timm_nor_the_compiler(tmp_path):
    save_file(zoo.create_model("reste_resnet20_cifar").state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    code = (
        "import sys, numpy, zoo\n"
        f"pipe = zoo.pipeline('reste_resnet20_cifar', checkpoint_path={weights!r}, device='cpu')\n"
        "pipe(numpy.zeros((32, 32, 3), numpy.uint8))\n"
        "print([name for name in ('timm', 'torchvision', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
