"""Scores of tubes: the peers' evaluators on their inputs, identities, and what must not come out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden
from zoo.metrics import FrameTube, grounding_scores

GOLDEN = Golden("stvg_metrics")
EXACT = 1e-9  # all of it is float64


def golden_tubes():
    found, truths = [], []
    for video in GOLDEN.facts["videos"]:
        boxes = GOLDEN.arrays[f"gt_xywh_{video['video_id']}"].astype(float)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        truths.append(FrameTube(video["gt_start"], video["gt_end"], corners, None, video["frame_count"]))
        every = GOLDEN.arrays[f"pred_xyxy_{video['video_id']}"].astype(float)
        found.append(FrameTube(video["pred_start"], video["pred_end"], every, 0))
    return found, truths


def test_the_challenges_script():
    scores, expected = grounding_scores(*golden_tubes(), "challenge"), GOLDEN.facts["challenge_script"]
    pairs = np.stack([scores.viou, scores.tiou], 1)
    np.testing.assert_allclose(pairs, expected["per_video_viou_tiou"], atol=1e-7)  # boxes were rounded to float32
    for name in ("m_vIoU", "m_tIoU", "vIoU@0.3", "vIoU@0.5"):
        assert scores.to_dict()[name] == pytest.approx(expected[name], abs=1e-7)


@pytest.mark.parametrize(
    ("convention", "key", "siou"), [("tubedetr", "tubedetr_5fps", "gt_viou"), ("every_frame",) * 2 + ("siou",)]
)
def test_the_peers_evaluators(convention, key, siou):
    scores, expected = grounding_scores(*golden_tubes(), convention), GOLDEN.facts[key]
    for found, name in ((scores.viou, "viou"), (scores.tiou, "tiou"), (scores.siou, siou)):
        np.testing.assert_allclose(found, [video[name] for video in expected["per_video"]], atol=1e-7)


def tube(start, end, box=(0, 0, 10, 10), **more):
    return FrameTube(start, end, np.tile(np.array(box, float), (end - start, 1)), **more)


@given(start=st.integers(0, 50), length=st.integers(1, 30))
def test_the_truth_itself_scores_one(start, length):
    truth = tube(start, start + length, video_frames=100)
    for convention in ("every_frame", "challenge", "tubedetr"):
        scores = grounding_scores([truth], [truth], convention)
        assert (scores.m_vIoU, scores.m_tIoU, scores.m_sIoU) == pytest.approx((1, 1, 1))


@given(a=st.integers(0, 20), n=st.integers(1, 15), b=st.integers(0, 20), m=st.integers(1, 15))
def test_a_loop_over_frames(a, n, b, m):
    found, truth = tube(a, a + n, (0, 0, 10, 10)), tube(b, b + m, (5, 0, 15, 10))
    both = set(range(a, a + n)) & set(range(b, b + m))
    either = set(range(a, a + n)) | set(range(b, b + m))
    scores = grounding_scores([found], [truth])
    assert scores.m_tIoU == pytest.approx(len(both) / len(either), abs=EXACT)
    assert scores.m_vIoU == pytest.approx(len(both) / 3 / len(either), abs=EXACT)  # such boxes overlap by a third
    assert scores.m_sIoU == pytest.approx(len(both) / 3 / m, abs=EXACT)


def test_the_end_of_the_union_is_the_later_one():
    """TubeDETR's first release took the earlier one: 10 of 10 frames here in place of 10 of 20."""
    assert grounding_scores([tube(0, 10)], [tube(0, 20)], "every_frame").m_vIoU == pytest.approx(0.5)


def test_apart_missing_and_strictly_greater():
    truths = {"a": tube(0, 10), "b": tube(0, 10), "c": tube(0, 10)}
    scores = grounding_scores({"a": tube(20, 30), "c": tube(0, 5)}, truths)
    assert scores.viou.tolist() == [0, 0, 0.5]
    assert scores.missing == 1
    assert scores.above(0.5) == 0
    assert scores.above(0.3) == pytest.approx(1 / 3)


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="no convention"):
        grounding_scores([tube(0, 1)], [tube(0, 1)], "mine")
    with pytest.raises(ValueError, match="no truth"):
        grounding_scores([], [])
    with pytest.raises(ValueError, match="have no truth: x"):
        grounding_scores({"x": tube(0, 1)}, {"y": tube(0, 1)})
    with pytest.raises(ValueError, match="video_frames"):
        grounding_scores([tube(0, 1)], [tube(0, 1)], "tubedetr")
    with pytest.raises(ValueError, match="frames 3 to 3"):
        FrameTube(3, 3, np.zeros((0, 4)))
