"""The applications: what they promise of every picture. The filter itself is tested elsewhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.models import texture_applications as applications
from zoo.models.pyramid_texture import PyramidTextureFilter
from zoo.models.texture_applications import from_linear, to_linear

FILTER = PyramidTextureFilter()


def picture(seed, channels=3, height=24, width=28):
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["enhance", "abstract", "tonemap", "halftone", "lowlight"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (24, 28)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [None, 0.0, 1.0], ids=["random", "black", "white"])
def test_every_picture_gives_one_for_the_screen(name, size, channels, value):
    x = picture(0, channels, *size) if value is None else torch.full((1, channels, *size), value)
    y = getattr(applications, name)(x, FILTER)
    assert y.shape == x.shape
    assert ((y >= 0) & (y <= 1)).all()  # false for NaN as well


@pytest.mark.parametrize("name", ["enhance", "abstract", "tonemap", "halftone", "lowlight"])
def test_a_picture_of_a_batch_is_as_it_is_alone(name):
    apply = getattr(applications, name)
    pictures = [picture(1), 0.02 * picture(2)]  # of ranges of their own
    alone = torch.cat([apply(x, FILTER) for x in pictures])
    # a few bits: a batch is added up in another order
    torch.testing.assert_close(apply(torch.cat(pictures), FILTER), alone, rtol=0, atol=1e-5)


@given(seed=st.integers(0, 99), luma=st.booleans())
def test_detail_once_is_the_picture(seed, luma):
    x = picture(seed)
    torch.testing.assert_close(applications.enhance(x, FILTER, strength=1, luma=luma), x, rtol=0, atol=1e-6)


def test_more_detail_is_more_contrast_from_pixel_to_pixel():
    x = 0.5 + 0.05 * (picture(1) - 0.5)
    spreads = [float(applications.enhance(x, FILTER, strength=k).std()) for k in (1, 2, 4)]
    assert spreads[0] * 1.5 < spreads[1] < spreads[2]


def test_luma_keeps_colour_differences():
    x = 0.5 + 0.2 * (picture(2) - 0.5)
    y = applications.enhance(x, FILTER, luma=True)
    torch.testing.assert_close(y[:, 0] - y[:, 1], x[:, 0] - x[:, 1], rtol=0, atol=1e-6)


def test_a_drawing_has_few_steps_of_lightness():
    ramp = torch.linspace(0.02, 0.98, 400).expand(1, 3, 40, 400)
    steep = applications.abstract(ramp, lambda x: x, strength=4, lines=False)[0, 0, 20]
    plain = applications.abstract(ramp, lambda x: x, lines=False, quantise=False)[0, 0, 20]
    torch.testing.assert_close(plain, ramp[0, 0, 20], rtol=0, atol=1e-4)  # CIELAB and back, float32
    slopes = (steep[1:] - steep[:-1]).sort().values
    assert slopes[-20:].mean() > 5 * slopes[20:200].mean()  # flat steps, steep between them


def test_lines_are_dark_and_lie_along_edges():
    x = torch.full((1, 3, 30, 40), 0.3)
    x[..., 20:] = 0.9
    drawn = applications.abstract(x, lambda x: x, quantise=False)
    assert drawn[..., 19].mean() < 0.2
    torch.testing.assert_close(drawn[..., 5], x[..., 5], rtol=0, atol=1e-3)


@given(seed=st.integers(0, 99), factor=st.floats(1e-3, 1e5))
def test_exposure_does_not_matter(seed, factor):
    x = torch.exp(4 * picture(seed)).double()
    torch.testing.assert_close(
        applications.tonemap(x * factor, FILTER), applications.tonemap(x, FILTER), rtol=0, atol=1e-6
    )


def test_base_contrast_becomes_the_wanted_one():
    """With a filter that takes nothing away, the base is the picture; ours overshoots beside an edge."""
    x = torch.arange(60)
    light = torch.where(x < 30, 1.0, 10000.0).expand(1, 1, 60, 60)
    shown = to_linear(applications.tonemap(light, lambda x: x, strength=10))
    assert float(shown.max() / shown.min()) == pytest.approx(10, rel=1e-3)
    narrow = torch.where(x < 30, 1.0, 2.0).expand(1, 1, 60, 60)  # below the target nothing is stretched
    shown = to_linear(applications.tonemap(narrow, lambda x: x, strength=10))
    assert float(shown.max() / shown.min()) == pytest.approx(2, rel=1e-3)


def test_negative_light_counts_as_none():
    x = picture(3) - 0.2
    assert torch.equal(applications.tonemap(x, FILTER), applications.tonemap(x.clamp_min(0), FILTER))


def test_a_halftone_becomes_flat():
    grey = 0.3
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(4))
    dots = (noise < grey).float()
    flat = applications.halftone(dots, PyramidTextureFilter(3.0, 0.03), strength=2)
    assert float(flat.std()) < 0.2 * float(dots.std())
    assert float(flat.mean()) == pytest.approx(float(dots.mean()), abs=0.02)


def test_a_dark_picture_gets_lighter_and_keeps_its_hue():
    x = 0.2 * picture(5)
    assert torch.equal(applications.lowlight(x, FILTER, strength=0), x)
    lighter = applications.lowlight(x, FILTER)
    assert lighter.mean() > 2 * x.mean()
    inside = (lighter < 1).all(1, keepdim=True)
    ratio = lighter / x
    assert ((ratio - ratio[:, :1]).abs() < 1e-3 * ratio[:, :1])[inside.expand(-1, 3, -1, -1)].all()


@given(st.floats(0, 1))
def test_srgb_there_and_back(value):
    x = torch.tensor([value], dtype=torch.float64)
    assert float(from_linear(to_linear(x))) == pytest.approx(value, abs=1e-6)  # the curve's two pieces meet to 1e-8
    assert math.isclose(float(to_linear(torch.tensor([0.5], dtype=torch.float64))), 0.21404114, abs_tol=1e-7)
