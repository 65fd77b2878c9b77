"""The compiled loops against plain loops that a reader can check, and against their torch twins."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.kernels import bilateral, native
from zoo.layers import bilateral as plain
from zoo.layers.pyramid import Band, blurred_enlargement, blurred_reduction, enlargement, resample

CPUS = [None, "x86-64-v3", "x86-64"] if native.platform.machine() == "x86_64" else [None]
# float32 weights are good to 3e-6 relative, and averages of values in [0, 1] no worse
NEAR = {torch.float64: 1e-13, torch.float32: 2e-5}


def image(seed, *shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, shape)).to(dtype)


def by_hand(values, guide, radius, sigma_s, sigma_r):
    """The definition, a pixel and a neighbour at a time, on (C, H, W)."""
    out = np.empty_like(values)
    _, height, width = values.shape
    for y, x in itertools.product(range(height), range(width)):
        total, weights = 0.0, 0.0
        for v in range(max(0, y - radius), min(height, y + radius + 1)):
            for u in range(max(0, x - radius), min(width, x + radius + 1)):
                spatial = math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * sigma_s**2))
                apart = ((guide[:, v, u] - guide[:, y, x]) ** 2).sum()
                weight = spatial * math.exp(-apart / (2 * sigma_r**2))
                total, weights = total + weight * values[:, v, u], weights + weight
        out[:, y, x] = total / weights
    return out


def imresize_row(row, to):
    """MATLAB's bilinear imresize of a vector, straight from its definition with 1-based positions."""
    size, out = len(row), []
    ratio = to / size
    half = 1 / ratio if ratio < 1 else 1.0
    for k in range(1, to + 1):
        u = k / ratio + 0.5 * (1 - 1 / ratio)
        taps = range(math.floor(u - half), math.floor(u - half) + math.ceil(2 * half) + 2)
        weights = [max(0.0, 1 - min(ratio, 1.0) * abs(u - j)) for j in taps]
        mirrored = [*range(size), *reversed(range(size))]
        values = [row[mirrored[(j - 1) % (2 * size)]] for j in taps]
        out.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(out)


def blur_row(row):
    taps = np.exp(-0.5 * np.arange(-2, 3.0) ** 2)
    mirrored = np.pad(row, 2, mode="symmetric") if len(row) > 1 else np.repeat(row, 5)
    return np.convolve(mirrored, taps / taps.sum(), "valid")


def whole(band, size):
    """The matrix that a band stands for."""
    matrix = np.zeros((len(band.first), size))
    for i, first in enumerate(band.first.tolist()):
        matrix[i, first : first + band.weight.shape[1]] = band.weight[i]
    return matrix


@given(size=st.integers(1, 40), to=st.integers(1, 40), seed=st.integers(0, 9))
def test_bands_are_the_definitions(size, to, seed):
    row = np.random.default_rng(seed).uniform(0, 1, size)
    for band, expected in (
        (enlargement(size, to), imresize_row(row, to)),
        (blurred_reduction(size, to), imresize_row(blur_row(row), to)),
        (blurred_enlargement(size, to), blur_row(imresize_row(row, to))),
    ):
        np.testing.assert_allclose(whole(band, size) @ row, expected, rtol=0, atol=1e-13)


def test_enlarging_is_ordinary_bilinear():
    x = image(0, 1, 3, 7, 9)
    expected = torch.nn.functional.interpolate(x, size=(11, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resample(x, enlargement(7, 11), enlargement(9, 20)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("own", [True, False], ids=["own guide", "other guide"])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_filters_are_the_definition(channels, own):
    values = image(1, 1, channels, 11, 13)
    guide = values if own else image(2, 1, channels, 11, 13)
    expected = by_hand(values[0].numpy(), guide[0].numpy(), 3, 1.7, 0.2)
    for filtered in (plain.joint_bilateral, bilateral.joint_bilateral):
        np.testing.assert_allclose(filtered(values, guide, 3, 1.7, 0.2)[0], expected, rtol=0, atol=1e-13)


@given(
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 3]), st.integers(1, 70), st.integers(1, 50)),
    radius=st.integers(1, 12),
    sigma_s=st.floats(0.1, 6),
    sigma_r=st.floats(0.01, 1),
    own=st.booleans(),
    dtype=st.sampled_from(list(NEAR)),
    cpu=st.sampled_from(CPUS),
)
def test_compiled_equals_torch(shape, radius, sigma_s, sigma_r, own, dtype, cpu):
    values = image(3, *shape, dtype=dtype)
    guide = values if own else image(4, *shape, dtype=dtype)
    expected = plain.joint_bilateral(values.double(), guide.double(), radius, sigma_s, sigma_r)
    found = bilateral.joint_bilateral(values, guide, radius, sigma_s, sigma_r, cpu=cpu)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < NEAR[dtype]


@given(
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 3]), st.integers(1, 70), st.integers(1, 50)),
    to=st.tuples(st.integers(1, 70), st.integers(1, 50)),
    dtype=st.sampled_from(list(NEAR)),
    cpu=st.sampled_from(CPUS),
)
def test_compiled_resampling_equals_torch(shape, to, dtype, cpu):
    x = image(5, *shape, dtype=dtype)
    for how in (enlargement, blurred_reduction, blurred_enlargement):
        bands = how(shape[2], to[0]), how(shape[3], to[1])
        found = bilateral.resample(x, *bands, cpu=cpu)
        assert (found - resample(x.double(), *bands)).abs().max() < NEAR[dtype]


@given(strip=st.integers(1, 90), threads=st.sampled_from([1, 2, 3]))
def test_the_cut_into_strips_does_not_show(strip, threads):
    """There is no seam: bits are equal however the rows are cut and shared."""
    values, guide = (image(seed, 1, 3, 83, 40, dtype=torch.float32) for seed in (6, 7))
    bands: tuple[Band, Band] = blurred_reduction(83, 66), blurred_reduction(40, 32)
    before, usual = torch.get_num_threads(), bilateral.STRIP
    expected = bilateral.joint_bilateral(values, guide, 5, 2.0, 0.1), bilateral.resample(values, *bands)
    try:
        torch.set_num_threads(threads)
        bilateral.STRIP = strip
        found = bilateral.joint_bilateral(values, guide, 5, 2.0, 0.1), bilateral.resample(values, *bands)
    finally:
        torch.set_num_threads(before)
        bilateral.STRIP = usual
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_threads_in_inference_mode():
    values, before = image(9, 1, 3, 80, 30, dtype=torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            found = bilateral.joint_bilateral(values + 0, values + 0, 5, 2.0, 0.1)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, bilateral.joint_bilateral(values, values.clone(), 5, 2.0, 0.1))


def test_values_of_any_size():
    values = image(8, 1, 3, 20, 20, dtype=torch.float32)
    for factor in (1e-20, 1e6, 1e18):
        scaled = bilateral.joint_bilateral(values * factor, values * factor, 4, 2.0, 0.1 * factor)
        torch.testing.assert_close(scaled / factor, bilateral.joint_bilateral(values, values, 4, 2.0, 0.1))


def test_pictures_it_does_not_take():
    good = torch.rand(1, 3, 8, 8)
    for bad in (good[0], torch.rand(1, 2, 8, 8), good.half()):
        with pytest.raises(ValueError, match="1 or 3"):
            bilateral.joint_bilateral(bad, bad, 2, 1.0, 0.1)
    with pytest.raises(ValueError, match="the guide"):
        bilateral.joint_bilateral(good, good.double(), 2, 1.0, 0.1)
