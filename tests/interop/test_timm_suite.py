"""What timm's own suite asks of a model, asked of every architecture of ours that timm sees.

Adapted from the public suite of timm 1.0, by test, and run through `timm.create_model`. Not asked, and why:

- pretrained inference and features, `load_pretrained`: the weights are not published; tests/cards covers bundled
  ones.
- TorchScript, and TorchScript after FX: torch has deprecated it; `torch.export` takes its place here.
- FX feature extraction: our pyramids are of timm's "getter" kind, which needs no tracing.
- unpooled output by `reset_classifier(0, "")`: `forward_features` gives the map, and heads here only average.
- NLC tokens from `forward_intermediates`: stages hold maps, so "NCHW" is the only format, as in timm's convolutional
  models.
- output strides other than 32, and pictures of a fixed size: no network here has them (VGG-Small excepted).

The smallest network of a family runs by default, the others with `-m slow`.
"""

import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import group_parameters, save_for_hf
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

import zoo
from zoo.registry.timm_cfg import IN_TIMM

ROOT = Path(__file__).parents[2]
TIMMS = ("lite0_extractor", "metric_imbalance_lite0")  # networks of timm's, which its own suite covers
CARDS = [
    card
    for card in map(zoo.card, zoo.list_models())
    if card.default and card.task in IN_TIMM and card.architecture not in TIMMS
]
FAST = 1  # networks of a family


def architectures() -> list[object]:
    families = defaultdict(list)
    for card in sorted(CARDS, key=lambda card: card.params):
        families[card.builder.partition(":")[0]].append(card.architecture)
    return [
        pytest.param(name, marks=[pytest.mark.slow] if rank >= FAST else [], id=name)
        for names in families.values()
        for rank, name in enumerate(names)
    ]


every_model = pytest.mark.parametrize("name", architectures())


def images(name: str, batch: int = 1, channels: int = 3) -> torch.Tensor:
    """Small ones, of a size that the network takes: attention is made for any."""
    side = min(64, zoo.card(name).input.size[-1])
    return torch.rand((batch, channels, side, side), generator=torch.Generator().manual_seed(0))


def build(name: str, **args: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **args)


@every_model
def test_forward(name):
    model = build(name).eval()
    assert timm.is_model(name)
    with torch.no_grad():
        logits = model(images(name, 2))
    assert logits.shape == (2, model.num_classes)
    assert logits.isfinite().all()


@every_model
def test_backward_reaches_every_parameter(name):
    model = build(name, num_classes=42).train()
    logits = model(images(name, 2))
    assert logits.shape == (2, 42)
    logits.mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@every_model
def test_default_cfg(name):
    model, x = build(name).eval(), images(name)
    cfg, state = model.default_cfg, model.state_dict()
    assert cfg is model.pretrained_cfg
    assert f"{cfg['classifier']}.weight" in state
    assert f"{cfg['first_conv']}.weight" in state
    assert model.num_features == model.forward_features(x).shape[1]
    assert cfg["num_classes"] == model.num_classes
    assert all(key in cfg for key in ("mean", "std", "interpolation", "crop_pct", "input_size"))
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])


@every_model
def test_reset_classifier(name):
    model, x = build(name).eval(), images(name)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        torch.testing.assert_close(model.get_classifier()(pooled), model(x))
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert model(x).shape == (1, 7)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pooled)
        assert build(name, num_classes=0).eval()(x).shape == pooled.shape


@every_model
def test_other_channels(name):
    model = build(name, in_chans=1).eval()
    assert model(images(name, channels=1)).shape == (1, model.num_classes)


@every_model
def test_features_only(name):
    x = images(name)
    model = build(name, features_only=True).eval()
    with torch.no_grad():
        maps = model(x)
    assert len(maps) == len(model.feature_info.channels())
    assert model.feature_info.reduction() == sorted(model.feature_info.reduction())
    for y, chs, reduction in zip(maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
        side = math.ceil(x.shape[-1] / reduction)
        assert y.shape == (1, chs, side, side)
    assert [key for key in model.state_dict() if "fc." in key] == []  # a backbone carries no head


@every_model
def test_features_of_chosen_stages(name):
    model = build(name, features_only=True, out_indices=(0, -2)).eval()
    assert len(model(images(name))) == 2


@pytest.mark.parametrize("name", [card.architecture for card in CARDS if card.input.size[-1] == 224])
def test_networks_for_photographs_have_strides_4_to_32(name):
    with torch.device("meta"):
        assert build(name, features_only=True, out_indices=(0, 1, 2, 3)).feature_info.reduction() == [4, 8, 16, 32]


@every_model
def test_forward_intermediates(name):
    model, x = build(name).eval(), images(name)
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        assert len(maps) == len(model.feature_info)
        torch.testing.assert_close(features, model.forward_features(x))
        assert [y.shape[1] for y in maps] == [info["num_chs"] for info in model.feature_info]
        (first,) = model.forward_intermediates(x, indices=[0], intermediates_only=True, stop_early=True)
        torch.testing.assert_close(first, maps[0])
        (last,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(last, features)
        kept = model.prune_intermediate_layers([0], prune_head=True)
        assert kept == [0]
        torch.testing.assert_close(model.forward_intermediates(x, indices=[0], intermediates_only=True)[0], first)


@every_model
def test_checkpointed_gradients_are_the_same(name):
    model, x = build(name).eval(), images(name, 2)  # norms and drop path at rest, or the two passes would differ
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm | DropPath):
            module.eval()
    model(x).square().mean().backward()
    plain = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().mean().backward()
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain[key], msg=key)


@every_model
def test_weight_decay_spares_what_it_should(name):
    model = build(name)
    assert model.no_weight_decay() <= {key for key, _ in model.named_parameters()}
    spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert spared["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(spared["params"]) + len(decayed["params"]) == len(list(model.parameters()))


@every_model
@pytest.mark.parametrize("coarse", [False, True])
def test_layers_are_matched_in_order(name, coarse):
    model = build(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    matched = [key for keys in groups.values() for key in keys]
    assert sorted(matched) == sorted(key for key, _ in model.named_parameters())
    of = {key: layer for layer, keys in groups.items() for key in keys}
    assert of[f"{model.default_cfg['first_conv']}.weight"] == 0
    head = of[f"{model.default_cfg['classifier']}.weight"]
    assert head == max(groups)
    assert len(groups) >= len(model.feature_info) + 1
    rates = [group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)]
    assert max(rates) == 1.0
    assert min(rates) < 0.5


@every_model
def test_export(name):
    model, x = build(name).eval(), images(name, 2)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


@every_model
def test_the_compiler_takes_it_whole(name):
    """Its front end; the C++ that it writes for a CPU takes minutes, see the next test."""
    model, x = build(name).eval(), images(name, 2)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [card.architecture for card in CARDS if card.architecture.endswith("_pico")])
def test_compiled(name):
    model, x = build(name).eval(), images(name, 2)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-4, atol=1e-4)


@every_model
def test_bfloat16(name):
    model = build(name).eval().bfloat16()
    with torch.no_grad():
        logits = model(images(name).bfloat16())
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@every_model
def test_a_folder_comes_back(name, tmp_path):
    made = build(name, num_classes=3).eval()
    save_for_hf(made, tmp_path, safe_serialization=True)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images(name)), made(images(name)))


FROM_THE_HUB = """
import sys, timm, torch, zoo
model = timm.create_model("hf-hub:somebody/net", pretrained=True).eval()
side = model.pretrained_cfg["input_size"][-1]
torch.save(model(torch.ones(1, 3, side, side)), sys.argv[1])
"""


@pytest.mark.parametrize("name", [card.architecture for card in CARDS if card.architecture.endswith("_pico")])
def test_a_repository_in_the_hubs_layout(name, tmp_path):
    commit = "0" * 40
    repository = tmp_path / "models--somebody--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    made = build(name, num_classes=3).eval()
    save_for_hf(made, repository / "snapshots" / commit, safe_serialization=True)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FROM_THE_HUB, str(tmp_path / "logits.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    x = torch.ones(1, *zoo.card(name).input.size)
    with torch.no_grad():
        # another process lays weights out at other addresses, by which libraries choose their order of sums
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), made(x), rtol=1e-5, atol=1e-6)


def test_torch_hub_loads_the_transformers():
    program = """
import hubconf, torch
for name in ("dilateformer_t", "dilateformer_tiny"):
    assert type(torch.hub.load(".", name, source="local", num_classes=3)).__name__ == "DilateFormer"
assert "DilateFormer-Tiny" in hubconf.dilateformer_t.__doc__
try:
    torch.hub.load(".", "dilateformer_b", source="local", pretrained=True)
except Exception as error:
    print(type(error).__name__, error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "WeightsUnavailable 3", done.stderr
