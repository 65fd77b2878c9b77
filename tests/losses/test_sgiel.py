"""Every loss against the authors' values and against plain loops."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden
from zoo.layers.subspace import inside, outside, unit_columns
from zoo.losses.sgiel import (
    complementary,
    consistency,
    dynamic_weights,
    exchange,
    hard_triplet,
    least_alike,
    mixed_cross_entropy,
    mutual,
    orthogonality,
    rectangle,
    soft_cross_entropy,
    weighted_triplet,
)

CASE = Golden("sgiel_losses")


def stored(name):
    return CASE.tensor(name)


def test_losses_are_the_authors():
    one = stored("in_y1")
    both = one.repeat(2)
    ours = {
        "loss_id": F.cross_entropy(stored("in_logit"), both),
        "loss_id2": F.cross_entropy(stored("in_logit2"), both),
        "loss_id_shape": F.cross_entropy(stored("in_shape_logit"), both),
        "loss_tri": hard_triplet(stored("in_bef"), both, CASE.facts["margin"]),
        "loss_kl": mutual(stored("in_logit")),
        "loss_kl2": complementary(stored("in_logit2"), least_alike(stored("in_shape_zp"), one)),
        "loss_estimate": consistency(
            stored("in_zp"), stored("in_ema_shape_zp"), stored("in_ema_shape_logit"), stored("in_cls_shape_weight")
        ),
        "loss_ortho": orthogonality(stored("in_proj")),
    }
    for name, value in ours.items():
        assert float(value) == pytest.approx(CASE.facts["values"][name], rel=1e-6), name  # a few float32 roundings
    # the released code adds 1e-6 to the sums of its weights, which is 1e-5 of the smallest
    weighted = weighted_triplet(stored("in_bef"), both)
    assert float(weighted) == pytest.approx(CASE.facts["values"]["loss_wrt"], rel=3e-5)


def test_the_erased_feature_and_the_estimate_are_the_authors():
    features, projection = stored("in_feat"), stored("in_proj")
    torch.testing.assert_close(outside(features, projection), stored("erased"), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(features @ projection, stored("zp_from_feat"), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(1, 3))
def test_triplets_and_partners_by_loops(seed, identities, views):
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(identities).repeat_interleave(views)
    both = labels.repeat(2)
    features = torch.randn(len(both), 5, generator=chance)
    losses = []
    for i in range(len(both)):
        distances = [float((features[i] - other).norm()) for other in features]
        own = max(d for d, label in zip(distances, both, strict=True) if label == both[i])
        others = min(d for d, label in zip(distances, both, strict=True) if label != both[i])
        losses.append(max(0.0, own - others + 0.3))
    # the distance is the root of a difference of squares, which loses half of float32's digits near 0
    assert float(hard_triplet(features, both)) == pytest.approx(sum(losses) / len(losses), abs=1e-3)

    partners = least_alike(features, labels).tolist()
    rows = len(labels)
    for i, partner in enumerate(partners):
        of_other = range(rows, 2 * rows) if i < rows else range(rows)
        same = [j for j in of_other if both[j] == both[i]]
        likeness = [float(F.cosine_similarity(features[i], features[j], dim=0)) for j in same]
        at = of_other[partner]
        assert both[at] == both[i]
        assert likeness[same.index(at)] == pytest.approx(min(likeness), abs=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_teachers_get_no_gradient(seed, rows):
    chance = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, 3, generator=chance).requires_grad_() for _ in range(2))
    loss = soft_cross_entropy(student, teacher)
    p, log = teacher.detach().softmax(1).tolist(), student.detach().log_softmax(1).tolist()
    loops = -sum(p[i][k] * log[i][k] for i in range(rows) for k in range(3))
    assert float(loss.detach()) == pytest.approx(loops / rows, rel=1e-4, abs=1e-5)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_an_orthonormal_projection_costs_nothing_and_splits_at_right_angles():
    basis, _ = torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    projection = basis * torch.tensor([0.5, 1, 2, 3], dtype=torch.float64)  # lengths of columns do not matter
    features = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(orthogonality(projection)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(unit_columns(projection), basis)
    shape, erased = inside(features, projection), outside(features, projection)
    torch.testing.assert_close(shape + erased, features)
    torch.testing.assert_close((shape * erased).sum(1), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(orthogonality(torch.ones(12, 4))) == pytest.approx(3, rel=1e-6)  # every column like every other


def test_the_larger_gradient_gets_the_larger_weight():
    pooled = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    consistent, complement = dynamic_weights((3 * pooled).sum(), pooled.sum(), pooled)
    assert float(consistent) == pytest.approx(0.5)
    assert float(complement) == pytest.approx(1.5)
    nothing = dynamic_weights((0 * pooled).sum(), (0 * pooled).sum(), pooled)
    assert [float(weight) for weight in nothing] == [0, 0]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_rectangle_lies_in_the_picture(height, width, share, down, across):
    rows, columns = rectangle((height, width), share, (int(down * height), int(across * width)))
    assert 0 <= rows.start <= rows.stop <= height
    assert 0 <= columns.start <= columns.stop <= width
    assert (rows.stop - rows.start) * (columns.stop - columns.start) <= (1 - share) * height * width + 1e-6


def test_pictures_exchange_a_rectangle_with_the_other_modality():
    visible = torch.zeros(2, 1, 4, 6) + torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    infrared = -visible
    one, two, left = exchange(visible, infrared, torch.tensor([1, 0]), (slice(1, 3), slice(0, 3)))
    assert one[0, 0, 1, 0] == -2
    assert two[1, 0, 2, 2] == 1
    assert one[0, 0, 0, 0] == 1
    assert left == pytest.approx(1 - 6 / 24)
    assert float(visible.min()) == 1  # what was given stays
    logits, own, others = torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([2, 0])
    mixed = mixed_cross_entropy(logits, own, others, left)
    by_hand = 0.75 * F.cross_entropy(logits, own) + 0.25 * F.cross_entropy(logits, others)
    torch.testing.assert_close(mixed, by_hand)
