"""Metric losses against recorded values and gradients of pytorch-metric-learning 2.9.0, and plain loops."""

import numpy as np
import pytest
import torch

from tests.goldens import golden_cases
from zoo.losses.metric import METRIC_LOSSES, balanced_triplet, new_metric_loss

pytest.importorskip("pytorch_metric_learning")

CASES = golden_cases("metric_losses*")
OURS = {  # the golden's names for a loss and its margin
    "triplet_batchhard_m0.3": ("triplet", 0.3),
    "triplet_semihard_m0.2": ("triplet_semihard", 0.2),
    "triplet_all_m0.05": ("triplet_all", 0.05),
    "triplet_all_m0.3": ("triplet_all", 0.3),
    "triplet_all_m0.3_smooth": ("triplet_smooth", 0.3),
    "contrastive_0_1": ("contrastive", 0.3),
    "multi_similarity_2_50_0.5_mined0.1": ("multi_similarity", 0.3),
    "circle_m0.4_g80": ("circle", 0.3),
    "supcon_t0.1": ("supcon", 0.3),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case):
    assert case.facts["losses"].keys() == OURS.keys()
    for key, (name, margin) in OURS.items():
        embeddings = case.tensor("embeddings").requires_grad_()
        loss = new_metric_loss(name, 4, embeddings.shape[1], margin)(embeddings, case.tensor("labels"))
        loss.backward()
        assert loss.item() == pytest.approx(case.facts["losses"][key], rel=1e-5), key  # float32 sums
        torch.testing.assert_close(embeddings.grad, case.tensor(f"grad_{key}"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_batch_hard_triplets(case):
    miner = new_metric_loss("triplet", 4, 8).miner
    mined = miner(case.tensor("embeddings"), case.tensor("labels"))
    for found, key in zip(mined, "apn", strict=True):
        assert found.tolist() == case.arrays[f"batchhard_{key}"].tolist()


def test_batch_hard_is_the_mean_over_a_plain_loop():
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(20, 6)).astype(np.float32), rng.integers(0, 4, 20)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    terms = []
    for i in range(20):
        to = np.linalg.norm(unit - unit[i], axis=1)
        same = (labels == labels[i]) & (np.arange(20) != i)
        if same.any():
            terms.append(max(0.0, to[same].max() - to[labels != labels[i]].min() + 0.3))
    expected = np.mean([term for term in terms if term > 0])
    loss = new_metric_loss("triplet", 4, 6)(torch.tensor(x), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected, rel=1e-4)  # float32 distances


def test_balanced_triplet_weighs_classes_alike():
    """Class 1, at distance 1 from itself and from class 0, has two of twenty pictures and half of the anchors."""
    embeddings = torch.tensor([[1.0, 0.0]] * 18 + [[0.5, 3**0.5 / 2], [0.5, -(3**0.5) / 2]])
    labels = torch.tensor([0] * 18 + [1, 1])
    loss = balanced_triplet(embeddings, labels, margin=0.5, generator=torch.Generator().manual_seed(0))
    rare = 3**0.5 - 1 + 0.5  # positive at sqrt(3), negative at 1
    assert loss.item() == pytest.approx(rare / 2, rel=1e-6)  # the others are at 0 from each other: 0 - 1 + 0.5 < 0


def test_balanced_triplet_without_a_triplet_is_zero_with_a_gradient():
    for labels in ([0, 0, 0], [0, 1, 2]):
        embeddings = torch.randn(3, 4, requires_grad=True)
        loss = balanced_triplet(embeddings, torch.tensor(labels))
        loss.backward()
        assert loss.item() == 0
        assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_every_loss_takes_a_batch_of_a_single_class_and_of_singles(name):
    loss = new_metric_loss(name, 4, 6)
    for labels in ([1, 1, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1]):
        embeddings = torch.randn(4, 6, requires_grad=True)
        value = loss(embeddings, torch.tensor(labels))
        value.backward()
        assert value.isfinite()
        assert embeddings.grad.isfinite().all()
