"""Packed networks against the float simulation: the same bits, the same floats."""

import copy
import sys
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.goldens import Golden, golden_cases
from zoo.convert import rename
from zoo.kernels import native
from zoo.layers import engine, packed
from zoo.layers.binary import BinaryConv2d
from zoo.layers.packing import FORMAT, pack, pack_bits, unpack
from zoo.models import reste

pytest.importorskip("llvmlite")

NETWORKS = golden_cases("reste_*_cifar") + golden_cases("reste_*_in1k")
REAL_ACTIVATIONS = golden_cases("reste_*_cifar_w1a32") + golden_cases("reste_*_in1k_w1a32")
LAST = torch.channels_last


def network(case: Golden, act_bits: int = 1) -> nn.Module:
    classes = case.tensor("logits").shape[1]
    model = getattr(reste, case.facts["model"])(num_classes=classes, act_bits=act_bits).eval()
    model.load_state_dict(rename(case.authors_state(), type(model).authors_keys))
    return model


def small(seed: int = 0, **args: object) -> nn.Module:
    """A network of few channels with norms that have seen something, some of them with negative weights."""
    torch.manual_seed(seed)
    settings = {"depths": (1, 2), "widths": (8, 16), "num_classes": 5, **args}
    model = reste.ReSTEResNet(**settings).eval()
    return settle(model)


def settle(model: nn.Module) -> nn.Module:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 0.2, 1.0)
            nn.init.normal_(norm.bias, 0, 0.5)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
    return model


def bits_seen(network: nn.Module) -> list[list[Tensor]]:
    """For each packed convolution the bits that it is given, one entry a call."""
    seen: list[list[Tensor]] = []
    for module in network.modules():
        if isinstance(module, packed.SignNorm | packed.AddNorm):
            calls: list[Tensor] = []
            seen.append(calls)
            module.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(args[0].low))
    return seen


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_every_bit_is_the_authors(case):
    network_ = engine.to_packed(network(case))
    seen = bits_seen(network_)
    with torch.inference_mode():
        logits = network_(case.input())
    facts = case.facts["binary_layers"].values()
    for calls, layer in zip(seen, facts, strict=True):
        inside = torch.cat(calls)[:, 1:-1, 1:-1].numpy()
        signs = np.unpackbits(inside, axis=-1, bitorder="little").transpose(0, 3, 1, 2)
        assert list(signs.shape) == layer["in_shape"]
        assert zlib.crc32(np.packbits(signs.ravel(), bitorder="little").tobytes()) == layer["sign_bits_crc32"]
    np.testing.assert_allclose(logits.numpy(), case.arrays["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("case", [case for case in NETWORKS if "34" not in case.name], ids=str)
def test_floats_equal_the_simulation_on_channels_last_maps(case, batch):
    model = network(case)
    for i, norm in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data[i % 3 :: 3] *= -1
    size = case.facts["input"]["shape"][1:]
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))
    network_ = engine.to_packed(model)
    with torch.inference_mode():
        _, ours = network_.forward_intermediates(x)
        _, theirs = model.forward_intermediates(x.contiguous(memory_format=LAST))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        torch.testing.assert_close(network_(x), model(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", REAL_ACTIVATIONS, ids=str)
def test_real_activations_keep_packed_weights(case):
    model = network(case, act_bits=32)
    network_, line = engine.prepare(model, "packed")
    with torch.inference_mode():
        logits = network_(case.input())
    assert line.startswith("packed (weights only)")
    assert sum(b.numel() for m in network_.modules() if isinstance(m, packed.PackedConv2d) for b in m.buffers()) * 8 < (
        1.01 * case.facts["binary_weight_count"] + 8 * 64
    )
    np.testing.assert_allclose(logits.numpy(), case.arrays["logits"], rtol=0, atol=1e-5 * case.facts["max_abs_logit"])


@given(
    ic=st.integers(1, 70),
    oc=st.integers(1, 40),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    batch=st.integers(1, 3),
    act_bits=st.sampled_from([1, 32]),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_a_layer_equals_its_float_twin(ic, oc, kernel, stride, batch, act_bits, zeros, seed):
    torch.manual_seed(seed)
    twin = BinaryConv2d(ic, oc, kernel, stride, kernel // 2, act_bits=act_bits)
    x = torch.randn(batch, ic, 6, 5)
    if zeros:
        x[torch.rand(x.shape) < 0.1] = 0
    layer = packed.PackedConv2d(pack_bits(twin.weight), twin.scale, ic, stride, kernel // 2, act_bits=act_bits)
    with torch.no_grad():
        expected, found = twin(x), layer(x)
        frozen = engine.FrozenBinaryConv2d(twin)(x)
        last = engine.FrozenBinaryConv2d(twin)(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(frozen, expected)
    if act_bits == 1:
        assert torch.equal(last, expected)
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # another order of summation


@given(seed=st.integers(0, 999), fan_in=st.sampled_from([9, 144, 1152]))
@settings(deadline=None, max_examples=40)
def test_thresholds_agree_with_the_norm_at_every_accumulator(seed, fan_in):
    torch.manual_seed(seed)
    norm = settle(nn.BatchNorm2d(12)).eval()
    norm.weight.data[:4] *= torch.tensor([1.0, -1.0, 1e-3, 0.0])
    scale = torch.rand(1) + 0.01
    lower, flip = packed.thresholds(norm, scale, fan_in)
    acc = torch.arange(-fan_in, fan_in + 1)
    maps = acc.float().view(1, 1, -1, 1).expand(1, 12, -1, 1).contiguous()
    with torch.no_grad():
        expected = norm((maps * scale).relu())[0, :, :, 0] > 0
    assert torch.equal((acc >= lower.unsqueeze(1)) != flip.unsqueeze(1), expected)


def test_a_norm_that_gives_zero_has_no_threshold():
    with pytest.raises(packed.ZeroOutput, match="exactly 0"):
        packed.thresholds(nn.BatchNorm2d(4).eval(), torch.ones(1), 9)


@pytest.mark.parametrize("build", [small, lambda: small(two_skips=True), lambda: small(shortcut="pad"), reste.ReSTEVGG])
def test_sign_of_zero_is_zero_as_in_the_float_network(build):
    torch.manual_seed(0)
    model = build().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as at the start: a dead ReLU gives exactly 0 behind them
            norm.reset_running_stats()
            norm.reset_parameters()
    seen = []
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.register_forward_pre_hook(lambda _, args: seen.append((args[0] == 0).any()))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.forward_features(x.contiguous(memory_format=LAST))
        assert any(seen)
        assert torch.equal(engine.to_packed(model).forward_features(x), expected)


@pytest.mark.parametrize("seed", range(4))
def test_batches_beyond_a_chunk(seed, monkeypatch):
    model = small(seed, shortcut=["conv", "pad"][seed % 2], two_skips=seed > 1)
    x = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    network_ = engine.to_packed(model)
    with torch.inference_mode():
        whole = network_(x)
        monkeypatch.setattr(packed, "CHUNK", 1 << 14)
        assert torch.equal(network_(x), whole)
        assert network_(x[:0]).shape == (0, 5)


def test_odd_widths_are_packed_layer_by_layer():
    model = small(widths=(12, 20))
    network_ = engine.to_packed(model)
    assert not isinstance(network_, packed.PackedClassifier)
    assert not any(isinstance(m, BinaryConv2d) for m in network_.modules())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network_(x), model(x), rtol=0, atol=1e-5)


def test_packing_leaves_the_model_alone():
    model = small()
    before = copy.deepcopy(model.state_dict())
    engine.to_packed(model)
    engine.freeze(model)
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_packed_file_runs_without_its_floats(tmp_path):
    model = small()
    file = tmp_path / "small.safetensors"
    save_file(pack(model), file, {"format": FORMAT})
    with torch.device("meta"):
        blank = reste.ReSTEResNet(depths=(1, 2), widths=(8, 16), num_classes=5)
    network_ = engine.to_packed(blank, load_file(file))
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network_.forward_features(x), engine.to_packed(model).forward_features(x))
        torch.testing.assert_close(network_(x), model(x), rtol=0, atol=1e-5)


def test_a_packed_network_is_small():
    model = reste.ReSTEResNet((2, 2), (64, 128), num_classes=10).eval()
    network_ = engine.to_packed(settle(model))
    bits = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    held = sum(t.numel() * t.element_size() for t in network_.state_dict().values())
    floats = sum(
        p.numel() for m in model.modules() if not isinstance(m, BinaryConv2d) for p in m.parameters(recurse=False)
    )
    assert held < bits / 8 + 4 * floats + 60_000  # thresholds, sums of taps, running statistics


def test_packing_round_trip_is_lossless():
    model = small()
    state = pack(model)
    twin = reste.ReSTEResNet(depths=(1, 2), widths=(8, 16), num_classes=5).eval()
    twin.load_state_dict(unpack(state, twin))
    again = pack(twin)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[k], v) for k, v in state.items())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(twin(x), model(x))


def test_half_precision_leaves_norms_and_scales_alone():
    state = pack(small(), dtype=torch.float16)
    kinds = {name: value.dtype for name, value in state.items()}
    assert kinds["conv1.weight"] == kinds["fc.weight"] == torch.float16
    assert kinds["bn1.running_var"] == kinds["layer1.0.conv1.weight_scale"] == torch.float32


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layer1.0.conv1.weight_packed", lambda t: t[..., :0], "packed weights|weight_packed"),
        ("layer1.0.conv1.weight_packed", lambda t: t[:, :2], "packed"),
        ("layer1.0.conv1.weight_scale", lambda t: t * torch.nan, "positive number"),
        ("layer1.0.conv1.weight_scale", lambda t: -t, "positive number"),
        ("layer1.0.conv1.weight_scale", lambda t: torch.cat([t, t]), "positive number"),
    ],
)
def test_damaged_states_are_refused(name, change, message):
    model = small()
    state = pack(model)
    state[name] = change(state[name])
    with pytest.raises(ValueError, match=message):
        unpack(state, model)
    with pytest.raises(ValueError, match=message):
        engine.to_packed(model, state)


def test_states_of_another_architecture_are_refused():
    state = pack(small())
    deeper = small(depths=(2, 2))
    with pytest.raises(ValueError, match="another architecture"):
        unpack(state, deeper)
    with pytest.raises(ValueError, match="another architecture"):
        engine.to_packed(deeper, state)
    with pytest.raises(ValueError, match="belongs to no binary convolution"):
        unpack(pack(deeper), small())


def test_weights_without_a_sign_are_refused():
    model = small()
    model.layer1[0].conv1.weight.data[0, 0, 0, 0] = 0
    with pytest.raises(ValueError, match="no sign"):
        engine.to_packed(model)
    with pytest.raises(ValueError, match="no sign"):
        pack(model)
    network_, line = engine.prepare(model)
    assert line.startswith("float: ")
    assert "no sign" in line
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network_(x), model(x))


def test_engines(monkeypatch):
    monkeypatch.delenv("ZOO_ENGINE", raising=False)
    model = small()
    assert engine.choose_engine(model)[0].startswith("packed (llvm, ")
    assert engine.choose_engine(model, "float") == ("float", "asked for")
    assert engine.choose_engine(model, device="cuda")[0] == "float"
    assert engine.choose_engine(small(act_bits=32))[0] == "float"
    assert engine.choose_engine(nn.Linear(2, 2)) == ("float", "the network has no binary convolutions")
    assert engine.choose_engine(small().half())[0] == "float"
    monkeypatch.setenv("ZOO_ENGINE", "float")
    assert engine.choose_engine(model)[0] == "float"
    assert engine.choose_engine(model, "packed")[0].startswith("packed")
    with pytest.raises(ValueError, match="'fast'"):
        engine.choose_engine(model, "fast")


def test_without_llvm_the_signs_are_cached(monkeypatch):
    model = small()
    native.load.cache_clear()
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    try:
        network_, line = engine.prepare(model, "packed")
    finally:
        native.load.cache_clear()
    assert line.startswith("float: ")
    assert "zoo[fast]" in line
    assert any(isinstance(m, engine.FrozenBinaryConv2d) for m in network_.modules())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network_(x), model(x))


def test_a_packed_network_does_not_train():
    with pytest.raises(ValueError, match="only evaluates"):
        engine.to_packed(small()).train()


def test_unpacked_weights_are_the_signs():
    weight = torch.randn(6, 13, 3, 3, generator=torch.Generator().manual_seed(0))
    found = packed.unpack_weight(pack_bits(weight), 13)
    assert torch.equal(found, weight.sign())
    assert F.conv2d(torch.ones(1, 13, 4, 4), found).isfinite().all()
