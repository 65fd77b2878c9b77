import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.metrics.verification import tpr_at_fpr


def by_trying_all(similarity, same, rate):
    """The best of all thresholds that keep to the rate."""
    best = 0.0
    for threshold in similarity:
        taken = similarity >= threshold
        if taken[~same].mean() <= rate:
            best = max(best, taken[same].mean())
    return best


@given(
    pairs=st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30),
    rate=st.sampled_from((0.0, 0.1, 0.25, 0.3, 0.5, 1.0)),
)
def test_is_the_best_threshold_within_the_rate(pairs, rate):
    similarity, same = np.array([x for x, _ in pairs], float), np.array([y for _, y in pairs])
    if same.all() or not same.any():
        with pytest.raises(ValueError, match="both are needed"):
            tpr_at_fpr(similarity, same, [rate])
        return
    (found,) = tpr_at_fpr(similarity, same, [rate])
    assert found.fpr <= rate
    assert found.tpr == by_trying_all(similarity, same, rate)
    assert found.tpr == (similarity[same] >= found.similarity).mean()
    assert found.fpr == (similarity[~same] >= found.similarity).mean()


def test_a_rate_that_rounding_would_miss():
    similarity = np.concatenate((np.arange(30.0), [27.0]))  # three of the thirty different ones are at 27 or above
    (found,) = tpr_at_fpr(similarity, np.arange(31) == 30, [0.1])
    assert (found.tpr, found.similarity) == (1.0, 27.0)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="are needed"):
        tpr_at_fpr([np.nan, 1.0], [True, False])
