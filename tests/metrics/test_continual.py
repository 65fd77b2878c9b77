"""Figures of continual learning against the authors' code, plain loops and what must hold of any learner."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden
from zoo.metrics.continual import (
    accuracy,
    average_incremental,
    backward_transfer,
    bwt_mean_over_time,
    calibration_error,
    final_average,
    forgetting,
    mean_class_recall,
    open_set,
    task_matrix,
)

CASE = Golden("cl_metrics")
ROUNDED = 1.1e-4  # the authors round to two decimals of a per cent before they average; 0.011 per cent by the sidecar


def stages(arrays):
    return ([arrays[f"{kind}_{t}"] for t in range(4)] for kind in ("y", "pred"))


@pytest.mark.parametrize(("measure", "name"), [(accuracy, "accuracy"), (mean_class_recall, "mcr")])
def test_matches_the_authors(measure, name):
    truths, predictions = stages(CASE.arrays)
    matrix = task_matrix(truths, predictions, CASE.facts["increment_steps"], measure)
    overall = [measure(y, p) for y, p in zip(truths, predictions, strict=True)]
    for j, stage in enumerate(CASE.facts["per_stage"]):
        assert overall[j] == pytest.approx(stage[name] / 100, abs=ROUNDED)
        assert matrix[: j + 1, j] == pytest.approx(np.array(stage[f"{name}_per_task"]) / 100, abs=ROUNDED)
    assert np.isnan(matrix[np.tril_indices(4, -1)]).all()
    assert average_incremental(overall) == pytest.approx(CASE.facts["average_incremental"][name] / 100, abs=ROUNDED)


def test_matches_the_authors_over_time():
    truths, predictions = stages(CASE.arrays)
    matrix = task_matrix(truths, predictions, CASE.facts["increment_steps"])
    for j, stage in enumerate(CASE.facts["per_stage"], 1):
        assert forgetting(matrix[:j, :j]) == pytest.approx(stage["avg_forgetting"] / 100, abs=ROUNDED)
        assert bwt_mean_over_time(matrix[:j, :j]) == pytest.approx(stage["bwt"] / 100, abs=ROUNDED)
        assert final_average(matrix[:j, :j]) == pytest.approx(stage["faa"] / 100, abs=ROUNDED)


def test_open_set_and_calibration_match_the_authors():
    a, facts = CASE.arrays, CASE.facts
    result = open_set(a["open_score"], a["open_known"])
    expected = facts["open_set"]
    exact = 1e-9  # the same sums in float64
    assert result.auroc == pytest.approx(expected["auc"] / 100, abs=exact)
    assert result.fpr95 == pytest.approx(expected["fpr95"] / 100, abs=exact)
    assert result.average_precision == pytest.approx(expected["ap"] / 100, abs=exact)
    assert calibration_error(a["ece_conf"], a["ece_y"], a["ece_pred"]) == pytest.approx(facts["ece_15_bins"], abs=1e-7)


def test_backward_transfer_is_the_usual_one():
    matrix = np.array([[0.9, 0.7, 0.5], [np.nan, 0.8, 0.9], [np.nan, np.nan, 0.6]])
    assert backward_transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert bwt_mean_over_time(matrix) == pytest.approx(((0.7 + 0.5 - 1.8) / 2 + (0.9 - 0.8)) / 2)
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.9)) / 2)


def test_one_task_forgets_nothing():
    assert forgetting([[0.4]]) == backward_transfer([[0.4]]) == bwt_mean_over_time([[0.4]]) == 0
    assert final_average([[0.4]]) == 0.4


def test_recall_of_a_task_counts_its_own_classes_only():
    # class 0: one of two found, class 1: one of one; answers outside the task are wrong, and no classes of it
    assert mean_class_recall([0, 0, 1], [0, 7, 1]) == pytest.approx(0.75)


scores = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({known for _, known in rows}) == 2
)


@given(scores)
def test_open_set_against_every_pair_and_threshold(rows):
    values, known = np.array([v for v, _ in rows], float), np.array([k for _, k in rows])
    result = open_set(values, known)
    pairs = [(a > b) + (a == b) / 2 for a in values[known] for b in values[~known]]
    assert result.auroc == pytest.approx(np.mean(pairs))
    thresholds = sorted(set(values), reverse=True)
    kept = [(values[known] >= t).mean() for t in thresholds]
    first = next(t for t, share in zip(thresholds, kept, strict=True) if share >= 0.95)
    assert result.fpr95 == pytest.approx((values[~known] >= first).mean())
    precision = [known[values >= t].mean() for t in thresholds]
    assert result.average_precision == pytest.approx((np.diff([0, *kept]) * precision).sum())


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_against_a_loop_over_bins(rows):
    sure, right = np.array([s for s, _ in rows]), np.array([r for _, r in rows])
    edges, total = np.linspace(0, 1, 16), 0.0
    for b in range(15):
        inside = (sure <= edges[b + 1]) & ((sure > edges[b]) | (b == 0))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert calibration_error(sure, np.ones(len(sure), int), right.astype(int)) == pytest.approx(total)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30), st.randoms())
def test_order_of_pictures_does_not_matter(rows, random):
    mixed = random.sample(rows, len(rows))
    for measure in (accuracy, mean_class_recall):
        assert measure(*zip(*rows, strict=True)) == pytest.approx(measure(*zip(*mixed, strict=True)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: accuracy([], []), "not empty"),
        (lambda: accuracy([1], [1, 2]), "both are"),
        (lambda: task_matrix([[0], [0]], [[0]], [1, 1]), "2 truths, 1 predictions"),
        (lambda: forgetting([[1, 2]]), r"\(T, T\)"),
        (lambda: open_set([1.0, 2.0], [True, True]), "both known and unknown"),
        (lambda: open_set([float("nan"), 2.0], [True, False]), "NaN"),
        (lambda: calibration_error([1.5], [0], [0]), r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
