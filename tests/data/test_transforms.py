import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from zoo.data.transforms import Preprocess
from zoo.registry.card import Input


def picture(width, height):
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)).filter(lambda s: max(s) <= 100 * min(s)),
    target=st.sampled_from([(32, 32), (224, 224), (64, 48), (30, 100)]),
    crop_pct=st.sampled_from([1.0, 0.875, 0.9, 0.5]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "nearest", "lanczos"]),
    crop_mode=st.sampled_from(["center", "squash"]),
)
@settings(deadline=None, max_examples=60)
def test_equals_timm_to_the_last_bit(size, target, crop_pct, interpolation, crop_mode):
    given_input = Input(size=(3, *target), crop_pct=crop_pct, interpolation=interpolation, crop_mode=crop_mode)
    timms = create_transform(
        input_size=given_input.size,
        interpolation=interpolation,
        mean=given_input.mean,
        std=given_input.std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    image = picture(*size)
    assert torch.equal(Preprocess(given_input)(image), timms(image))


def test_a_batch_equals_its_pictures():
    preprocess = Preprocess(Input(size=(3, 32, 32), crop_pct=1.0))
    images = [picture(32, 32), picture(40, 50)]
    batch = preprocess.normalise(torch.from_numpy(np.stack([preprocess.crop(image) for image in images])))
    assert batch.shape == (2, 3, 32, 32)
    for row, image in zip(batch, images, strict=True):
        assert torch.equal(row, preprocess(image))


def test_a_picture_of_the_right_size_is_passed_on():
    image = picture(32, 32)
    assert np.array_equal(Preprocess(Input(size=(3, 32, 32), crop_pct=1.0)).crop(image), np.asarray(image))


def test_grey_input():
    preprocess = Preprocess(Input(size=(1, 16, 16), mean=(0.5,), std=(0.5,)))
    assert preprocess(Image.new("RGB", (40, 40), (255, 255, 255))).unique().tolist() == pytest.approx([1.0])
