"""Herding, memory, balanced set and nearest means against the authors' code and against the rule written out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden, normal
from zoo.data.exemplars import Memory, class_means, closest_to_mean, herding, nearest_mean


def distances(features, chosen):
    """Rebuffi et al., algorithm 4: from a class's mean to that of the chosen and one more; infinite for the chosen."""
    f = F.normalize(features.double(), dim=1)
    mean = f.mean(0)
    return torch.tensor(
        [torch.inf if i in chosen else float((mean - f[[*chosen, i]].mean(0)).norm()) for i in range(len(f))]
    )


def test_matches_the_authors():
    case = Golden("cl_herding")
    features, count = case.tensor("features"), case.facts["m"]
    assert herding(features, count).tolist() == case.tensor("herding").tolist()
    assert closest_to_mean(features, count).tolist() == case.tensor("closest_to_mean").tolist()


def test_memory_matches_the_authors_over_three_tasks():
    case = Golden("cl_replay_buffer")
    features, memory = case.tensor("features"), Memory(case.facts["memory_size"])
    for task, (size, logged) in enumerate(zip(case.facts["task_sizes"], case.facts["log"], strict=True)):
        ids, y = case.tensor(f"ids_{task}"), case.tensor(f"y_{task}")
        first = len(memory.rows)
        rows = [ids[y == k] for k in range(first, first + size)]
        new = [features[mine] for mine in rows]
        if task:
            balanced, labels = memory.balanced(rows, new)
            assert balanced.tolist() == case.arrays[f"balanced_ids_{task}"].tolist()
            assert labels.tolist() == case.arrays[f"balanced_y_{task}"].tolist()
        memory = memory.after(rows, new)
        kept, labels = memory.labelled()
        assert kept.tolist() == case.arrays[f"memory_ids_{task}"].tolist()
        assert labels.tolist() == case.arrays[f"memory_y_{task}"].tolist()
        assert memory.quota(len(memory.rows)) == logged["per_class"]
        means = class_means([features[mine] for mine in memory.rows])
        torch.testing.assert_close(means, case.tensor(f"class_means_{task}"), rtol=0, atol=1e-6)  # float32 sums
    chosen, score = nearest_mean(case.tensor("query"), means)
    assert chosen.tolist() == case.arrays["nme_pred"].tolist()
    torch.testing.assert_close(score, case.tensor("nme_score"), rtol=0, atol=1e-6)


@given(st.integers(0, 2**20), st.integers(1, 12), st.integers(1, 5), st.integers(0, 14))
def test_herding_against_the_rule_written_out(seed, n, d, count):
    features = normal(seed, (n, d))
    chosen = herding(features, count).tolist()
    assert len(chosen) == min(n, count)
    for k, row in enumerate(chosen):  # equals up to rounding, as one dimension has many, may go either way
        far = distances(features, chosen[:k])
        assert far[row] <= far.min() + 1e-9


@given(st.integers(0, 2**20), st.integers(1, 20), st.integers(0, 10), st.integers(0, 10))
def test_a_shorter_choice_is_the_head_of_a_longer_one(seed, n, few, more):
    features = normal(seed, (n, 4))
    assert herding(features, few).tolist() == herding(features, few + more)[:few].tolist()


def test_the_first_of_equal_pictures_is_taken():
    assert herding(torch.ones(5, 3), 3).tolist() == [0, 1, 2]


@given(st.integers(1, 50), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_memory_never_exceeds_its_limit(limit, task_sizes):
    memory, row = Memory(limit), 0
    for size in task_sizes:
        rows = [torch.arange(row + 9 * k, row + 9 * k + 9) for k in range(size)]
        memory = memory.after(rows, [normal(int(mine[0]), (9, 4)) for mine in rows])
        row += 9 * size
    assert sum(map(len, memory.rows)) <= limit
    assert {len(mine) for mine in memory.rows} == {min(9, limit // len(memory.rows))}


def test_a_fixed_number_a_class_does_not_shrink():
    memory = Memory(3, is_per_class=True)
    for task in range(2):
        rows = [torch.arange(10 * task, 10 * task + 8)]
        memory = memory.after(rows, [normal(task, (8, 4))])
    assert [len(mine) for mine in memory.rows] == [3, 3]


def test_an_empty_memory_balances_nothing():
    with pytest.raises(ValueError, match="first task"):
        Memory(10).balanced([torch.arange(4)], [normal(0, (4, 2))])
    rows, labels = Memory(10).labelled()
    assert rows.tolist() == labels.tolist() == []
