"""Explanations: exact for a mean and a linear layer, the same from packed bits, without gradients through the body."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo
from zoo.data.transforms import Preprocess
from zoo.errors import UsageError
from zoo.layers.explain import explained
from zoo.registry.card import Input
from zoo.registry.names import list_names, load_card

BUNDLED = "reste_resnet20_cifar"


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["pslt_pico", BUNDLED])
def test_shares_are_the_class_activation_map(name):
    torch.manual_seed(0)
    model = zoo.create_model(name).eval()
    x = torch.rand(2, 3, 32, 32)
    logits, heat = explained(model, x)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(x))
        features = model.forward_features(x)
        weight = model.fc.weight
        if norm := getattr(model, "head_norm", None):
            weight = weight * (norm.weight / (norm.running_var + norm.eps).sqrt())
        maps = torch.einsum("bchw,bc->bhw", features, weight[logits.argmax(1)]).clamp(min=0)
    expected = maps / maps.amax((1, 2), keepdim=True)
    torch.testing.assert_close(heat, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted({load_card(name).architecture for name in list_names(task="classify")}))
def test_every_classifier_explains_itself(name):
    torch.manual_seed(0)
    model = zoo.create_model(name).eval().requires_grad_(False)
    with torch.inference_mode():  # as the pipeline does
        _, heat = explained(model, torch.rand(1, *zoo.card(name).input.size))
    assert heat.shape[0] == 1
    assert min(heat.shape[1:]) > 1
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1


def test_packed_bits_and_floats_explain_alike(picture):
    packed, simulated = (
        zoo.pipeline(BUNDLED, device="cpu", engine=engine, explain=True)(picture) for engine in ("auto", "float")
    )
    assert packed.labels == simulated.labels
    np.testing.assert_allclose(packed.explanation.heat, simulated.explanation.heat, atol=1e-4)
    assert packed.explanation.heat.max() == 1


def test_scores_do_not_depend_on_being_explained(picture):
    plain, explaining = (zoo.pipeline(BUNDLED, device="cpu", explain=explain)(picture) for explain in (False, True))
    np.testing.assert_allclose(plain.scores, explaining.scores, rtol=1e-5)
    assert plain.explanation is None
    row = explaining.to_dict()["explanation"]
    assert np.shape(row["heat"]) == explaining.explanation.heat.shape
    assert "explanation" not in plain.to_dict()
    assert explaining.draw().size != plain.draw().size


def test_a_network_without_a_map_says_so():
    with pytest.raises(ValueError, match="no feature map"):
        explained(nn.Flatten(), torch.rand(1, 3, 4, 4))


def test_backbones_are_told_what_to_do():
    with pytest.raises(UsageError, match="explain"):
        zoo.pipeline(BUNDLED, task="embed", explain=True)


@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    side=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    crop=st.sampled_from([1.0, 0.875, 0.5]),
)
def test_what_the_network_sees_lies_inside_the_picture(size, side, crop):
    left, top, right, bottom = Preprocess(Input(size=(3, *side), crop_pct=crop)).seen(size)
    slack = 1 / min(side)  # sizes are whole pixels of the shrunk picture
    assert -slack <= left < right <= 1 + slack
    assert -slack <= top < bottom <= 1 + slack
    assert left + right == pytest.approx(1, abs=slack)  # the centre
