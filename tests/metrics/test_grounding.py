"""Grounding metrics against the published evaluators' values, in three conventions."""

import numpy as np
import pytest

import zoo
from tests.goldens import Golden
from zoo.metrics import FrameTube

GOLDEN = Golden("stvg_metrics")


def tubes():
    predictions, truths = [], []
    for video in GOLDEN.facts["videos"]:
        left, top, width, height = GOLDEN.arrays[f"gt_xywh_{video['video_id']}"].T
        boxes = np.stack([left, top, left + width, top + height], 1)
        truths.append(FrameTube(video["gt_start"], video["gt_end"], boxes, video_frames=video["frame_count"]))
        predicted = GOLDEN.arrays[f"pred_xyxy_{video['video_id']}"]
        predictions.append(FrameTube(video["pred_start"], video["pred_end"], predicted, 0))
    return predictions, truths


@pytest.mark.parametrize(
    ("convention", "facts", "spatial"),
    [
        ("every_frame", GOLDEN.facts["every_frame"]["mean"], "m_sIoU_over_gt"),
        ("challenge", GOLDEN.facts["challenge_script"], None),
        ("tubedetr", GOLDEN.facts["tubedetr_5fps"]["mean"], "m_sIoU_gt_viou"),
    ],
)
def test_values_are_the_published_evaluators(convention, facts, spatial):
    found = zoo.metrics.grounding_scores(*tubes(), convention=convention).to_dict()
    wanted = {name: facts[name] for name in ("m_vIoU", "m_tIoU", "vIoU@0.3", "vIoU@0.5")}
    if spatial:
        wanted["m_sIoU"] = facts[spatial]
    scale = 100 if found["m_vIoU"] > 1 else 1
    assert {name: found[name] / scale for name in wanted} == pytest.approx(wanted, rel=1e-9)


def test_the_truth_scores_everything_and_a_missing_answer_nothing():
    _, truths = tubes()
    assert zoo.metrics.grounding_scores(truths, truths).viou == pytest.approx(np.ones(len(truths)))
    assert zoo.metrics.grounding_scores([None] * len(truths), truths).viou == pytest.approx(np.zeros(len(truths)))
