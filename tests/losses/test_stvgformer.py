"""Losses of grounding beside loops that can be checked against the equations, and beside the written example."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden, normal
from zoo.losses.stvgformer import (
    absence_loss,
    attentive_loss,
    box_giou,
    box_losses,
    guided_attention_loss,
    span_ious,
    span_loss,
    steps_inside,
)
from zoo.models.stvgformer_blocks import valid_spans

EXAMPLE, MAP = Golden("stvg_blocks_example"), Golden("stvg_2dtan_map")


def spans_of(example):
    seconds = torch.tensor(example.facts["input"]["gt_seconds"])
    return seconds[:, 0], seconds[:, 1], torch.full((2,), example.facts["input"]["duration"])


def test_the_written_example():
    expected, spans = EXAMPLE.facts["expected"], spans_of(EXAMPLE)
    ious = span_ious(*spans, 4)
    torch.testing.assert_close(ious, EXAMPLE.tensor("iou_map"))
    valid = valid_spans(4, None, ious.device).expand(2, -1, -1)
    span = span_loss(EXAMPLE.tensor("score"), ious, valid)
    attentive = attentive_loss(EXAMPLE.tensor("att"), steps_inside(*spans, 4))
    boxes, truth = (torch.sigmoid(normal(80 + k, [6, 4])) for k in (4, 5))
    boxes[:, 2:] /= 2
    truth[:, 2:] /= 2
    distance, apart = box_losses(boxes, truth)
    found = [float(x) for x in (span, attentive, distance, apart)]
    assert found == pytest.approx([expected[name] for name in ("L_tg", "L_ta", "L_l1", "L_giou")], rel=1e-5)
    assert 5 * found[2] + 2 * found[3] + 5 * found[0] + found[1] == pytest.approx(expected["total_5_2_5_1"], rel=1e-5)


@pytest.mark.parametrize(("limits", "value"), MAP.facts["loss"]["expected"].items())
def test_2d_tans_rescaled_loss(limits, value):
    low, high = map(float, limits.split("-"))
    scores = normal(MAP.facts["loss"]["scores_seed"], [2, 1, 12, 12])[:, 0]
    target = torch.from_numpy(np.random.default_rng(52).random((2, 1, 12, 12)).astype(np.float32))[:, 0]
    valid = valid_spans(12, None, scores.device).expand(2, -1, -1)
    assert float(span_loss(scores, target, valid, low=low, high=high)) == pytest.approx(value, rel=1e-5)


@given(start=st.floats(0, 9), length=st.floats(0.1, 5), steps=st.integers(1, 9))
def test_overlaps_in_time_by_brute_force(start, length, steps):
    duration = 15.0
    found = span_ious(torch.tensor([start]), torch.tensor([start + length]), torch.tensor([duration]), steps)[0]
    for i in range(steps):
        for j in range(steps):
            first, last = i / steps * duration, (j + 1) / steps * duration
            shared = max(0.0, min(last, start + length) - max(first, start))
            expected = shared / (last - first + length - shared) if j >= i else 0.0
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-5)  # float32 of seconds up to 15


def test_generalised_overlap_of_known_boxes():
    one = torch.tensor([0.5, 0.5, 1.0, 1.0])
    cases = {(0.5, 0.5, 1.0, 1.0): 1.0, (0.25, 0.5, 0.5, 1.0): 0.5, (2.5, 0.5, 1.0, 1.0): -1 / 3}
    for other, expected in cases.items():
        assert float(box_giou(one, torch.tensor(other))) == pytest.approx(expected, abs=1e-6)
    assert float(box_giou(one * 0, one * 0)) == 0  # boxes of no size


def test_attention_that_lies_inside_costs_nothing():
    logits = torch.tensor([[0.0, 50.0, 0.0], [0.0, 0.0, 0.0]])
    inside = torch.tensor([[False, True, False], [False, False, False]])  # the second video has nobody
    assert float(attentive_loss(logits, inside)) == pytest.approx(0, abs=1e-6)
    even = attentive_loss(torch.zeros(1, 4), torch.tensor([[True, True, False, False]]))
    assert float(even) == pytest.approx(math.log(4))
    padded = attentive_loss(
        torch.zeros(1, 4), torch.tensor([[True, True, False, False]]), torch.tensor([[False, False, True, True]])
    )
    assert float(padded) == pytest.approx(math.log(2))


def test_guided_attention_counts_cells_in_the_grown_box():
    """A box over one of 4 x 4 cells, grown by half a cell, holds the centres of 3 x 3."""
    even = torch.full((1, 16), 1 / 16)
    box = torch.tensor([[0.375, 0.375, 0.25, 0.25]])
    assert float(guided_attention_loss(even, box, (4, 4))) == pytest.approx(-math.log(9 / 16))


def test_no_annotated_frame_is_no_loss():
    none = torch.zeros(0, 4, requires_grad=True)
    assert [float(x.detach()) for x in box_losses(none, none)] == [0, 0]
    assert float(guided_attention_loss(torch.zeros(0, 16), torch.zeros(0, 4), (4, 4))) == 0


def test_absence_is_judged_where_it_is_known():
    absence = torch.tensor([[0.2, 0.9, 0.5], [0.7, 0.7, 0.1]])
    marked = torch.tensor([[True, False, True], [False, False, False]])  # nobody is meant in the second film
    expected = -(math.log(0.8) + math.log(0.5) + 2 * math.log(0.7) + math.log(0.1)) / 5
    assert float(absence_loss(absence, marked)) == pytest.approx(expected, rel=1e-5)
    certain = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert float(absence_loss(certain, certain < 0.5)) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(absence_loss(1 - certain, certain < 0.5))
