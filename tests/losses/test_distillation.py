"""The losses of adaptive distillation against an independent NumPy implementation, and what they promise."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import golden_cases
from zoo.losses.distillation import (
    Integration,
    cut_old,
    distillation_weights,
    energy_map,
    integrated_distances,
    level_distances,
    logit_distances,
    new_class_weights,
    uncertainty,
)

EXACT = {"rtol": 1e-9, "atol": 1e-10}  # both sides count in float64; the sidecars allow 1e-6
CASES = golden_cases("adaptive_distill_*")


def features(case):
    levels = range(len(case.facts["config"]["channels"]))
    return [case.tensor(f"f_new_{k}") for k in levels], [case.tensor(f"f_old_{k}") for k in levels]


def attention(case):
    config = case.facts["config"]
    module = Integration(config["channels"], config["attention_dim"]).double()
    for k, _ in enumerate(config["channels"]):
        for maps, letter in ((module.query, "q"), (module.key, "k")):
            maps[k].weight.data = case.tensor(f"W{letter}_{k}")
            maps[k].bias.data = case.tensor(f"b{letter}_{k}")
    return module


@pytest.mark.parametrize("case", CASES, ids=str)
def test_knowledge_is_integrated_as_the_golden_has_it(case):
    new, old = features(case)
    shares = attention(case)(new, old)
    torch.testing.assert_close(shares, case.tensor("out_attention"), **EXACT)
    distances = integrated_distances(new, old, shares)
    torch.testing.assert_close(distances, case.tensor("out_d_feat_levels"), **EXACT)
    torch.testing.assert_close(distances.mean(1), case.tensor("out_d_feat"), **EXACT)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_and_the_whole_loss_are_the_goldens(case):
    config, labels = case.facts["config"], case.tensor("y")
    old, new = case.tensor("z_old"), case.tensor("z_new")
    unsure = uncertainty(old)
    torch.testing.assert_close(unsure, case.tensor("out_uncertainty"), **EXACT)
    weights, kept = new_class_weights(unsure, labels, config["old_classes"]), distillation_weights(unsure)
    torch.testing.assert_close(weights, case.tensor("out_w_new"), **EXACT)
    torch.testing.assert_close(kept, case.tensor("out_c_old"), **EXACT)
    told = logit_distances(old, new, config["temperature"])
    torch.testing.assert_close(told, case.tensor("out_d_kd"), **EXACT)
    maps = integrated_distances(*features(case), attention(case)(*features(case))).mean(1)
    learnt = (weights * F.cross_entropy(new, labels, reduction="none")).mean()
    remembered = (kept * (config["lambda_kd"] * told + config["lambda_feat"] * maps)).mean()
    assert learnt.item() == pytest.approx(case.facts["loss_ce"], rel=1e-9)
    assert remembered.item() == pytest.approx(case.facts["loss_old"], rel=1e-9)
    assert (learnt + remembered).item() == pytest.approx(case.facts["loss"], rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_old_pictures_are_cut_as_the_golden_has_it(case):
    draws = (case.tensor(key) for key in ("partner", "area", "cy", "cx"))
    is_old = case.tensor("y") < case.facts["config"]["old_classes"]
    mixed, own = cut_old(case.tensor("images"), is_old, *draws)
    assert torch.equal(mixed, case.tensor("mixed"))
    torch.testing.assert_close(own, case.tensor("lam"), rtol=0, atol=0)


def test_example_worked_by_hand():
    old = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    new = torch.tensor([[0.5, 0.0, 2.0]], dtype=torch.float64)
    unsure = uncertainty(old)
    assert unsure.item() == pytest.approx(0.527065, abs=1e-6)
    assert new_class_weights(unsure, torch.tensor([2]), 2).item() == pytest.approx(1.027065, abs=1e-6)
    assert logit_distances(old, new).item() == pytest.approx(0.243887, abs=1e-6)
    assert distillation_weights(unsure).item() == pytest.approx(1)


def test_maps_of_one_level_alone_are_compared_without_attention():
    new, old = ([torch.rand(3, 4 * k, 8 // k, 8 // k) for k in (1, 2)] for _ in range(2))
    by_hand = torch.stack(
        [
            (energy_map(a, a.shape[2:]) - energy_map(b, a.shape[2:])).square().sum(1)
            for a, b in zip(new, old, strict=True)
        ],
        1,
    )
    torch.testing.assert_close(level_distances(new, old), by_hand)
    assert level_distances(new, new).abs().max() < 1e-10  # float32 rounding of maps of length 1, squared


def test_gradients_reach_the_new_features_and_the_attention_and_not_the_old():
    new = [torch.rand(2, 4, 6, 6, requires_grad=True), torch.rand(2, 8, 3, 3, requires_grad=True)]
    old = [level.detach() + 0.1 * torch.rand_like(level) for level in new]
    module = Integration((4, 8), 5)
    integrated_distances(new, old, module(new, old)).mean().backward()
    assert all(level.grad.abs().sum() > 0 for level in new)
    assert all(parameter.grad is not None for parameter in module.parameters())


@given(
    classes=st.integers(1, 12),
    batch=st.integers(1, 6),
    scale=st.floats(0, 40),
    seed=st.integers(0, 1000),
)
def test_uncertainty_is_a_share_and_weights_average_one(classes, batch, scale, seed):
    logits = scale * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unsure = uncertainty(logits)
    assert ((unsure >= 0) & (unsure <= 1 + 1e-12)).all()
    weights = distillation_weights(unsure)
    if (1 - unsure).mean() > 1e-3:
        assert weights.mean().item() == pytest.approx(1)
    else:
        assert weights.mean() <= 1


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_distances_stay_between_nothing_and_four(sizes, batch, seed):
    torch.manual_seed(seed)
    new, old = ([torch.randn(batch, 2 + k, *size) for k, size in enumerate(sizes)] for _ in range(2))
    shares = Integration([2 + k for k in range(len(sizes))], 16)(new, old)
    distances = integrated_distances(new, old, shares)
    assert distances.shape == (batch, len(sizes))
    assert ((distances >= 0) & (distances <= 4)).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(batch, len(sizes)))


def test_dead_features_give_numbers():
    """A level whose features are all zero has a map of zeros, not of NaN."""
    new, old = [torch.zeros(2, 3, 4, 4, requires_grad=True)], [torch.zeros(2, 3, 4, 4)]
    loss = integrated_distances(new, old, Integration((3,), 16)(new, old)).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert new[0].grad.isfinite().all()


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    area=st.floats(0, 0.5),
    down=st.floats(0, 0.999),
    across=st.floats(0, 0.999),
)
def test_box_is_counted_by_a_plain_loop(height, width, area, down, across):
    """The mixed picture equals the one painted pixel by pixel, and the share is its count."""
    row, column = int(down * height), int(across * width)
    images = torch.stack([torch.zeros(1, height, width), torch.ones(1, height, width)])
    mixed, own = cut_old(
        images,
        torch.tensor([True, False]),
        torch.tensor([1, 0]),
        torch.tensor([area, area], dtype=torch.float64),
        torch.tensor([row, row]),
        torch.tensor([column, column]),
    )
    tall, wide = int(height * math.sqrt(area) + 0.5), int(width * math.sqrt(area) + 0.5)
    painted = torch.zeros(height, width)
    for y in range(row - tall // 2, row - tall // 2 + tall):
        for x in range(column - wide // 2, column - wide // 2 + wide):
            if 0 <= y < height and 0 <= x < width:
                painted[y, x] = 1
    assert torch.equal(mixed[0, 0], painted)
    assert torch.equal(mixed[1], images[1])
    assert own[0].item() == pytest.approx(1 - painted.mean().item(), abs=1e-6)  # a float32 mean
    assert own[1] == 1
