"""Figures of imbalance against scikit-learn, recorded values, and what cannot be divided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import golden_cases
from zoo.metrics.imbalance import (
    class_f1,
    class_recall,
    confusion,
    geometric_mean,
    group_accuracy,
    imbalance_scores,
    macro_auroc,
    macro_f1,
    rare_classes,
)

HAM = [4323, 583, 491, 264, 183, 80, 60]


def softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("case", golden_cases("imbalance_formulas*"), ids=str)
def test_golden(case):
    values, truth = case.facts["values"], case.arrays["y"]
    scores = imbalance_scores(softmax(case.arrays["logits"]), truth, case.facts["config"]["counts"])
    assert scores.mcr == pytest.approx(values["mcr"])
    assert scores.macro_f1 == pytest.approx(values["macro_f1"])
    assert scores.accuracy == pytest.approx(values["accuracy"])
    assert scores.g_mean == pytest.approx(values["g_mean"])
    assert scores.recall == pytest.approx(values["recall"])
    table = confusion(truth, np.array(values["pred"]), len(values["recall"]))
    assert class_f1(table).tolist() == pytest.approx(values["per_class_f1"])


@given(
    classes=st.integers(2, 6),
    truth=st.lists(st.integers(0, 5), min_size=2, max_size=40),
    seed=st.integers(0, 999),
)
def test_as_scikit_learn_has_it(classes, truth, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    truth = np.array(truth) % classes
    chances = softmax(np.random.default_rng(seed).normal(size=(len(truth), classes)).round(1))  # rounded: with ties
    answers = chances.argmax(1)
    table = confusion(truth, answers, classes)
    present = np.unique(truth)
    assert macro_f1(table) == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
    recall = metrics.recall_score(truth, answers, labels=present, average=None, zero_division=0)
    assert class_recall(table)[present] == pytest.approx(recall)
    if len(present) > 1:
        areas = [metrics.roc_auc_score(truth == label, chances[:, label]) for label in present]
        assert macro_auroc(chances, truth) == pytest.approx(np.mean(areas))
    else:
        assert np.isnan(macro_auroc(chances, truth))


def test_rare_third_of_ham_is_its_two_rarest():
    assert rare_classes(HAM).tolist() == [5, 6]
    assert rare_classes([5]).tolist() == [0]
    assert rare_classes([9, 9, 9]).tolist() == [2]


def test_groups_at_their_borders():
    groups = group_accuracy([0.1, 0.2, 0.3, 0.4], [101, 100, 20, 19])
    assert groups == pytest.approx({"many": 0.1, "medium": 0.25, "few": 0.4})
    assert np.isnan(group_accuracy([1.0], [500])["few"])


def test_one_class_missed_makes_the_geometric_mean_nothing():
    assert geometric_mean([0.9, 0.0]) == 0
    assert geometric_mean([0.9, np.nan, 0.4]) == pytest.approx(0.6)


def test_class_without_test_pictures_has_no_recall_and_no_json_nan():
    scores = imbalance_scores(np.eye(3)[[0, 1, 1]], [0, 1, 1], [50, 40, 3])
    assert np.isnan(scores.recall[2])
    assert scores.mcr == 1
    assert scores.to_dict()["recall"] == [1.0, 1.0, None]
    assert scores.to_dict()["rare_recall"] is None
    assert scores.ece == 0


def test_shapes_that_do_not_go_together():
    with pytest.raises(ValueError, match="for 2 pictures of 3 classes"):
        imbalance_scores(np.eye(2), [0, 1], [1, 1, 1])
