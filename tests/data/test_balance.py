"""What batches hold when classes differ in size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.balance import (
    class_counts,
    folds,
    long_tail,
    long_tail_counts,
    progressive_shares,
    sampled_rows,
    sampling_shares,
    varied_rows,
)
from zoo.data.datasets import Pictures

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def chance(seed=0):
    return np.random.default_rng(seed)


def test_natural_root_and_balanced_shares():
    counts = torch.tensor([90, 9, 1])
    assert sampling_shares(counts, 1).tolist() == pytest.approx([0.9, 0.09, 0.01])
    assert sampling_shares(counts, 0).tolist() == pytest.approx([1 / 3] * 3)
    assert sampling_shares(torch.tensor([4, 0]), 0).tolist() == [1, 0]
    assert progressive_shares(counts, 0.5).tolist() == pytest.approx([0.5 * 0.9 + 1 / 6, 0.045 + 1 / 6, 0.005 + 1 / 6])


@given(labels=LABELS, count=st.integers(0, 80), seed=st.integers(0, 99), power=st.sampled_from((0.0, 0.5, 1.0)))
def test_drawn_rows_go_round_a_class_before_they_repeat(labels, count, seed, power):
    truth = torch.tensor(labels)
    rows = sampled_rows(truth, sampling_shares(class_counts(truth, 5), power), count, chance(seed))
    assert len(rows) == count
    for label in set(labels):
        drawn = rows[truth[rows] == label].bincount(minlength=len(labels))[truth == label]
        assert drawn.max() - drawn.min() <= 1


def test_balanced_draws_are_balanced():
    truth = torch.tensor([0] * 990 + [1] * 10)
    rows = sampled_rows(truth, sampling_shares(class_counts(truth, 2), 0), 4000, chance())
    assert 1900 < (truth[rows] == 1).sum() < 2100  # 2000 with a deviation of 32


@given(labels=LABELS, classes=st.integers(1, 6), each=st.integers(1, 6), seed=st.integers(0, 99))
def test_batch_of_some_classes_with_as_many_each(labels, classes, each, seed):
    truth = torch.tensor(labels)
    able = (class_counts(truth, 5) > 1).sum().item()
    rows = varied_rows(truth, classes, each, chance(seed))
    assert len(rows) == min(classes, able) * each
    counts = class_counts(truth[rows], 5)
    assert set(counts.tolist()) <= {0, each}
    assert (class_counts(truth, 5)[counts > 0] > 1).all()


def test_published_long_tail_of_cifar_100():
    counts = long_tail_counts(100, 500, 100)
    assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10847)  # the field's CIFAR-100-LT has 10,847 pictures
    assert [sum(n > 100 for n in counts), sum(n < 20 for n in counts)] == [35, 30]
    assert sum(long_tail_counts(10, 5000, 100)) == 12406  # and CIFAR-10-LT 12,406


def test_long_tail_keeps_pictures_by_seed():
    labels = torch.arange(3).repeat(40)
    data = Pictures(torch.arange(120, dtype=torch.uint8).view(-1, 1, 1, 1), labels, ("a", "b", "c"))
    one, same, other = (long_tail(data, 10, seed) for seed in (0, 0, 1))
    assert class_counts(one.labels, 3).tolist() == [40, 12, 4]
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(labels[one.images.flatten().long()], one.labels)


@given(labels=LABELS, count=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_share_out_every_class(labels, count, seed):
    truth = torch.tensor(labels)
    fold = folds(truth, count, seed)
    alone = class_counts(truth, 5)[truth] == 1
    assert (fold[alone] == -1).all()  # the only picture of a class is always learnt
    for label in set(labels):
        mine = fold[(truth == label) & ~alone].bincount(minlength=count) if not alone[truth == label].any() else None
        assert mine is None or mine.max() - mine.min() <= 1
