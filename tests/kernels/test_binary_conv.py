"""The kernels against torch's convolution of signs, bit for bit."""

import os
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.kernels import binary_conv as kernels
from zoo.kernels import native
from zoo.layers.packing import pack_bits, unpack_bits

pytest.importorskip("llvmlite")

CPUS = [None, "x86-64-v3", "x86-64"] if native.platform.machine() == "x86_64" else [None]


def signs_of(bits: Tensor, channels: int, border: int) -> Tensor:
    """(B, C, H, W) of +1 and -1, from bits, by a loop over the bytes' bits."""
    inside = bits[:, border : bits.shape[1] - border, border : bits.shape[2] - border]
    planes = [(inside[..., c // 8] >> (c % 8)) & 1 for c in range(channels)]
    return torch.stack(planes, 1).float() * 2 - 1


def case(seed: int, batch: int, ic: int, oc: int, size: int, kernel: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, ic, size, size + 1, generator=generator),
        torch.randn(oc, ic, kernel, kernel, generator=generator),
    )


SHAPES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "ic": st.integers(1, 140),
        "oc": st.integers(1, 40),
        "size": st.integers(5, 9),
        "kernel": st.sampled_from([1, 2, 3, 5]),
    }
)


@given(shape=SHAPES, stride=st.integers(1, 3), padding=st.integers(0, 2), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("cpu", CPUS)
def test_counts_are_torchs_convolution(cpu, shape, stride, padding, seed):
    x, weight = case(seed, **shape)
    taps = kernels.lay_out(pack_bits(weight), shape["ic"])
    edge = kernels.borders(taps.sums, shape["ic"], *x.shape[2:], stride, padding)
    bits, zeros = kernels.pack_signs(x.permute(0, 2, 3, 1), padding, cpu=cpu)
    acc = kernels.conv_count(bits, taps, edge, stride, cpu=cpu)
    expected = F.conv2d(x.sign(), weight.sign(), None, stride, padding).permute(0, 2, 3, 1)
    assert not zeros
    assert torch.equal(acc[..., : shape["oc"]].float(), expected)


@given(channels=st.integers(1, 70), border=st.integers(0, 2), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_packed_signs_are_the_signs_and_borders_are_blank(channels, border, seed):
    x = torch.randn(2, 3, 4, channels, generator=torch.Generator().manual_seed(seed))
    bits, _ = kernels.pack_signs(x, border)
    assert torch.equal(signs_of(bits, channels, border).permute(0, 2, 3, 1), x.sign())
    assert (
        bits.numel() - bits[:, border : border + 3, border : border + 4].numel() == 0
        or not (
            F.pad(bits[:, border : border + 3, border : border + 4], (0, 0, border, border, border, border)) - bits
        ).any()
    )


@pytest.mark.parametrize("place", [0, 7, 100, 3 * 5 * 16 - 1])
def test_zeros_are_reported(place):
    x = torch.ones(1, 3, 5, 16)
    assert not kernels.pack_signs(x, 1)[1]
    x.view(-1)[place] = 0
    assert kernels.pack_signs(x, 1)[1]
    x.view(-1)[place] = -0.0
    assert kernels.pack_signs(x, 1)[1]


@given(seed=st.integers(0, 99), stride=st.integers(1, 2), oc=st.sampled_from([8, 24, 64]), skips=st.integers(0, 2))
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("cpu", CPUS[:2])
def test_the_fused_tail_rounds_as_torch_does(cpu, seed, stride, oc, skips):
    x, weight = case(seed, 2, 32, oc, 6, 3)
    generator = torch.Generator().manual_seed(seed + 1)
    alpha, beta, skip_alpha, skip_beta = torch.randn(4, oc, generator=generator)
    scale = torch.rand(1, generator=generator)
    acc = F.conv2d(x.sign(), weight.sign(), None, stride, 1)
    skip = torch.randn(acc.shape, generator=generator)

    def norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # alpha and beta themselves, hence eps 0
        return F.batch_norm(y, torch.zeros(oc), torch.ones(oc), weight, bias, eps=0.0)

    expected = norm((acc * scale).relu(), alpha, beta)
    if skips:
        expected = expected + (norm(skip, skip_alpha, skip_beta) if skips == 2 else skip)
    taps = kernels.lay_out(pack_bits(weight), 32)
    bits, _ = kernels.pack_signs(x.permute(0, 2, 3, 1), 1, cpu=cpu)
    out, signs, zeros = kernels.conv_add(
        bits,
        taps,
        kernels.borders(taps.sums, 32, *x.shape[2:], stride, 1),
        stride,
        scale,
        torch.stack([alpha, beta]),
        skip.permute(0, 2, 3, 1).contiguous() if skips else None,
        torch.stack([skip_alpha, skip_beta]) if skips == 2 else None,
        1,
        cpu=cpu,
    )
    assert torch.equal(out.permute(0, 3, 1, 2), expected)
    assert torch.equal(signs_of(signs, oc, 1), (expected > 0).float() * 2 - 1)
    assert zeros == bool((expected == 0).any())


@given(seed=st.integers(0, 99), oc=st.sampled_from([3, 8, 20, 64]))
@settings(deadline=None, max_examples=20)
def test_thresholds_and_flips(seed, oc):
    x, weight = case(seed, 1, 24, oc, 5, 3)
    generator = torch.Generator().manual_seed(seed + 1)
    lower = torch.randint(-30, 30, (oc,), generator=generator, dtype=torch.int32)
    flip = torch.rand(oc, generator=generator) < 0.5
    taps = kernels.lay_out(pack_bits(weight), 24)
    bits, _ = kernels.pack_signs(x.permute(0, 2, 3, 1), 1)
    filled = F.pad(lower, (0, -oc % 8), value=torch.iinfo(torch.int32).max)
    flips = pack_bits(flip.float().view(1, -1, 1, 1)).flatten()
    edge = kernels.borders(taps.sums, 24, *x.shape[2:], 1, 1)
    out = kernels.conv_sign(bits, taps, edge, 1, filled, flips, 2)
    acc = F.conv2d(x.sign(), weight.sign(), None, 1, 1)
    expected = (acc >= lower.view(1, -1, 1, 1)) != flip.view(1, -1, 1, 1)
    assert torch.equal(signs_of(out, oc, 2), expected.float() * 2 - 1)


def test_channels_beyond_the_last_stay_blank():
    packed = pack_bits(torch.randn(5, 11, 3, 3, generator=torch.Generator().manual_seed(0)))
    taps = kernels.lay_out(packed, 11)
    x = torch.randn(1, 4, 4, 11, generator=torch.Generator().manual_seed(1))
    bits, _ = kernels.pack_signs(x, 1)
    assert not (bits[..., 1] >> 3).any()
    assert not taps.sums[..., 5:].any()


def test_threads_agree_with_one():
    x, weight = case(0, 8, 64, 64, 32, 3)
    taps = kernels.lay_out(pack_bits(weight), 64)
    edge = kernels.borders(taps.sums, 64, *x.shape[2:], 1, 1)
    bits, _ = kernels.pack_signs(x.permute(0, 2, 3, 1), 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kernels.conv_count(bits, taps, edge, 1)
        torch.set_num_threads(3)
        together = kernels.conv_count(bits, taps, edge, 1)
        names = {thread.name for thread in threading.enumerate()}
    finally:
        torch.set_num_threads(before)
    assert any(name.startswith("zoo-kernels") for name in names)
    assert torch.equal(alone, together)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_work_again_after_a_fork():
    first = kernels._pool(os.getpid(), 1)
    assert first.submit(lambda: 1).result(timeout=10) == 1
    assert kernels._pool(os.getpid() + 1, 1) is not first  # a child has another id, so it starts its own


def test_bits_without_room_behind_them_are_copied():
    x, weight = case(0, 1, 16, 8, 5, 3)
    taps = kernels.lay_out(pack_bits(weight), 16)
    edge = kernels.borders(taps.sums, 16, *x.shape[2:], 1, 1)
    bits, _ = kernels.pack_signs(x.permute(0, 2, 3, 1), 1)
    assert torch.equal(kernels.conv_count(bits.clone(), taps, edge, 1), kernels.conv_count(bits, taps, edge, 1))


def test_wrong_kinds_are_refused():
    x, weight = case(0, 1, 16, 8, 5, 3)
    taps = kernels.lay_out(pack_bits(weight), 16)
    edge = kernels.borders(taps.sums, 16, *x.shape[2:], 1, 1)
    with pytest.raises(ValueError, match="uint8 on the CPU"):
        kernels.conv_count(torch.zeros(1, 7, 8, 2), taps, edge, 1)
    with pytest.raises(ValueError, match="float32"):
        kernels.pack_signs(torch.zeros(1, 2, 2, 8, dtype=torch.float16), 1)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.borders(taps.sums, 16, 2, 5, 1, 0)


def test_operators_have_the_shapes_they_promise():
    x, weight = case(0, 2, 16, 24, 6, 3)
    taps = kernels.lay_out(pack_bits(weight), 16)
    edge = kernels.borders(taps.sums, 16, *x.shape[2:], 2, 1)
    maps = x.permute(0, 2, 3, 1).contiguous()
    bits = torch.ops.zoo.pack_signs(maps, 1)
    common = (bits, *taps, *edge, 2)
    lower, flip = torch.zeros(24, dtype=torch.int32), torch.zeros(3, dtype=torch.uint8)
    tail = (torch.ones(1), torch.ones(2, 24), None, None, 1)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.zoo.pack_signs.default, (maps, 1), test_utils=tests)
    torch.library.opcheck(torch.ops.zoo.binary_conv2d.default, common, test_utils=tests)
    torch.library.opcheck(torch.ops.zoo.binary_conv2d_sign.default, (*common, lower, flip, 1), test_utils=tests)
    torch.library.opcheck(torch.ops.zoo.binary_conv2d_add.default, (*common, *tail), test_utils=tests)
    expected = F.conv2d(x.sign(), weight.sign(), None, 2, 1).permute(0, 2, 3, 1)
    assert torch.equal(torch.ops.zoo.binary_conv2d(*common).float(), expected)


def test_a_cpu_that_llvm_does_not_know_still_runs():
    assert native.load("x86-64" if native.platform.machine() == "x86_64" else None).functions.keys() == {
        "conv_count",
        "conv_sign",
        "conv_add",
        "pack",
        "norm",
    }


def test_unpacking_is_the_inverse_of_packing():
    weight = torch.randn(5, 19, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack_bits(pack_bits(weight), 19), weight.sign())
