"""Formulas for classes of different size against an independent NumPy implementation, and examples worked by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import golden_cases
from zoo.data.balance import progressive_shares, sampling_shares
from zoo.losses.imbalance import (
    adjusted_logits,
    balanced_softmax,
    bbn_share,
    centre_head,
    centre_triplet,
    class_balanced_weights,
    class_means,
    deferred_weights,
    focal_loss,
    inverse_frequency_weights,
    ldam_loss,
    ldam_margins,
    scaled_head,
    tau_normalised,
    unit_centres,
    weighted_cross_entropy,
)

CASES = golden_cases("imbalance_formulas*")
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64 on both sides; the sidecar allows 1e-6


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


def near(value):
    return pytest.approx(value, rel=1e-10)


def parts(case):
    counts = torch.tensor(case.facts["config"]["counts"])
    return counts, case.facts["config"], case.facts["values"], case.tensor("logits"), case.tensor("y")


def test_losses(case):
    counts, config, values, logits, labels = parts(case)
    assert F.cross_entropy(logits, labels).item() == near(values["ce"])
    inverse = inverse_frequency_weights(counts)
    assert weighted_cross_entropy(logits, labels, inverse).item() == near(values["ce_inverse_frequency_mean"])
    torchs = F.cross_entropy(logits, labels, weight=inverse).item()
    assert torchs == near(values["ce_inverse_frequency_weighted_mean"])
    balanced = class_balanced_weights(counts, config["beta"])
    np.testing.assert_allclose(balanced, values["class_balanced_weights"], rtol=1e-10)
    assert weighted_cross_entropy(logits, labels, balanced).item() == near(values["ce_class_balanced_mean"])
    assert focal_loss(logits, labels, config["gamma"]).item() == near(values["focal"])
    assert balanced_softmax(logits, labels, counts).item() == near(values["balanced_softmax"])


def test_ldam(case):
    counts, config, values, _, labels = parts(case)
    margins = ldam_margins(counts, config["ldam_max_margin"])
    np.testing.assert_allclose(margins, values["ldam_margins"], rtol=1e-10)
    cosines = F.normalize(case.tensor("x"), dim=1) @ F.normalize(case.tensor("W"), dim=1).T
    assert ldam_loss(cosines, labels, margins, config["ldam_scale"]).item() == near(values["ldam_s30"])


def test_heads(case):
    counts, config, values, logits, labels = parts(case)
    x, weight, bias = (case.tensor(key) for key in ("x", "W", "b"))
    tau = x @ tau_normalised(weight, config["tau"]).T
    torch.testing.assert_close(tau, case.tensor("tau_norm_logits"), **EXACT)
    assert tau.argmax(1).tolist() == values["tau_norm_pred"]
    scaled, shift = scaled_head(weight, bias, torch.tensor(values["lws_scale"], dtype=torch.float64))
    torch.testing.assert_close(x @ scaled.T + shift, case.tensor("lws_logits"), **EXACT)
    assert (x @ scaled.T + shift).argmax(1).tolist() == values["lws_pred"]
    adjusted = adjusted_logits(logits, counts, config["tau"])
    assert adjusted.argmax(1).tolist() == values["logit_adjust_posthoc_pred"]
    folded = x @ weight.T + adjusted_logits(bias, counts, config["tau"])
    torch.testing.assert_close(folded, adjusted, **EXACT)
    means = class_means(x, labels, len(counts))
    torch.testing.assert_close(means, case.tensor("centroids"), **EXACT)
    assert (x @ centre_head(means).T).argmax(1).tolist() == values["ncm_pred_cosine"]


def test_centres(case):
    counts, config, values, _, labels = parts(case)
    x = case.tensor("x")
    centres = unit_centres(x, labels, len(counts))
    torch.testing.assert_close(torch.cdist(F.normalize(x, dim=1), centres), case.tensor("centre_distances"), **EXACT)
    loss = centre_triplet(x, labels, centres, config["centre_margin"])
    assert loss.item() == near(values["centre_triplet_hard_m0.3"])


def test_sampling(case):
    counts, config, values, _, _ = parts(case)
    np.testing.assert_allclose(sampling_shares(counts, 0.5), values["sqrt_sampling"], rtol=1e-10)
    progressive = progressive_shares(counts, config["epoch"] / config["epochs"])
    np.testing.assert_allclose(progressive, values["progressive_sampling"], rtol=1e-10)
    assert bbn_share(config["epoch"], config["epochs"]) == near(values["bbn_alpha"])


def test_example_worked_by_hand():
    counts = torch.tensor([90, 9, 1])
    rounded = {"abs": 5e-5}
    assert inverse_frequency_weights(counts).tolist() == pytest.approx([0.0297, 0.2970, 2.6733], **rounded)
    assert class_balanced_weights(counts, 0.9).tolist() == pytest.approx([0.2375, 0.3877, 2.3748], **rounded)
    assert ldam_margins(counts).tolist() == pytest.approx([0.1623, 0.2887, 0.5], **rounded)
    assert sampling_shares(counts, 0.5).tolist() == pytest.approx([0.7034, 0.2224, 0.0741], **rounded)


@given(counts=st.lists(st.integers(1, 10_000), min_size=1, max_size=30), beta=st.floats(0, 0.99999))
def test_weights_sum_to_the_classes_and_rare_ones_weigh_more(counts, beta):
    sizes = torch.tensor(counts)
    for weights in (inverse_frequency_weights(sizes), class_balanced_weights(sizes, beta)):
        assert weights.sum().item() == pytest.approx(len(counts))
        in_order = weights[sizes.argsort()]
        assert (in_order.diff() <= 1e-9).all()


def test_class_without_pictures_is_named():
    with pytest.raises(ValueError, match="class 1 has no pictures"):
        inverse_frequency_weights(torch.tensor([3, 0, 2]))


def test_limits_that_are_cross_entropy():
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 4, (9,))
    plain = F.cross_entropy(logits, labels)
    same = torch.full((4,), 7)
    torch.testing.assert_close(focal_loss(logits, labels, 0.0), plain)
    torch.testing.assert_close(balanced_softmax(logits, labels, same), plain)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, inverse_frequency_weights(same)), plain)
    torch.testing.assert_close(ldam_loss(logits, labels, torch.zeros(4), 1.0), plain)


def test_focal_of_a_sure_answer_keeps_its_gradient():
    logits = torch.tensor([[12.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0])).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize(("epoch", "even"), [(0, True), (7, True), (8, False), (9, False)])
def test_deferred_weights_set_in_after_four_fifths(epoch, even):
    weights = deferred_weights(torch.tensor([100, 10]), epoch, 10)
    assert (weights[0] == weights[1]) == even


@given(classes=st.integers(2, 6), count=st.integers(1, 20), seed=st.integers(0, 999), margin=st.floats(0, 1))
def test_centre_triplet_by_a_plain_loop(classes, count, seed, margin):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(count, 5)), rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, 5))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    terms = []
    for e, label in zip(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), labels, strict=True):
        to = [math.dist(e, centre) for centre in centres]
        terms.append(max(0.0, to[label] - min(d for c, d in enumerate(to) if c != label) + margin))
    loss = centre_triplet(torch.tensor(embeddings), torch.tensor(labels), torch.tensor(centres), margin)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-9, abs=1e-12)


def test_absent_centre_is_nobodys_nearest():
    centres = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    loss = centre_triplet(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), centres, margin=2.5)
    assert loss.item() == pytest.approx(0.5)  # 0 - 2 + 2.5; the zero row, at distance 1, would give 1.5
