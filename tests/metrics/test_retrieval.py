"""Retrieval metrics: published functions' values, a double loop, ties, several and missing captions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoo
from tests.goldens import Golden
from zoo.metrics.retrieval import dual_softmax, retrieval_scores

GOLDEN = Golden("retrieval_metrics")
CASES = ("square", "multi_caption", "weak")


@pytest.mark.parametrize("name", CASES)
def test_values_are_the_published_functions(name):
    sims, facts = GOLDEN.arrays[name], GOLDEN.facts["cases"][name]
    per_video = len(sims) // sims.shape[1]
    found = zoo.metrics.retrieval_scores(sims, np.arange(len(sims)) // per_video)
    for ours, theirs in ((found.text_to_video, facts["frozen_t2v"]), (found.video_to_text, facts["frozen_v2t"])):
        got = (ours.r1, ours.r5, ours.r10, ours.mdr, ours.mnr)
        assert got == pytest.approx([theirs[key] for key in ("R1", "R5", "R10", "MedR", "MeanR")], rel=1e-12)
    assert found.text_ranks.sum() == facts["t2v_rank_sum"]
    assert found.text_ranks[:20].tolist() == facts["t2v_first20_ranks"]


def test_a_constant_matrix_gives_the_average_rank():
    found = retrieval_scores(np.zeros((6, 6)))
    for ranks in (found.text_to_video, found.video_to_text):
        assert (ranks.r1, ranks.r5, ranks.r10) == (0, 100, 100)
        assert ranks.mdr == ranks.mnr == 3.5


def slow_ranks(sims, owner):
    """Both directions in plain loops."""
    texts, videos = sims.shape
    kept = [i for i in range(texts) if owner[i] >= 0]
    forward, backward = {}, {}
    for i in kept:
        own = sims[i][owner[i]]
        others = [sims[i][j] for j in range(videos) if j != owner[i]]
        forward[i] = 1 + sum(s > own for s in others) + sum(s == own for s in others) / 2
    for j in range(videos):
        mine = [i for i in kept if owner[i] == j]
        if mine:
            best = max(mine, key=lambda i: sims[i][j])
            others = [sims[i][j] for i in kept if i != best]
            own = sims[best][j]
            backward[j] = 1 + sum(s > own for s in others) + sum(s == own for s in others) / 2
    return forward, backward


@given(data=st.data(), videos=st.integers(1, 6), texts=st.integers(1, 9), seed=st.integers(0, 999))
def test_ranks_are_those_of_a_double_loop(data, videos, texts, seed):
    rng = np.random.default_rng(seed)
    sims = rng.integers(0, data.draw(st.integers(1, 20)), (texts, videos)) / 7  # ties are common
    owner = rng.integers(-1, videos, texts)
    owner[0] = 0
    found = retrieval_scores(sims, owner)
    forward, backward = slow_ranks(sims, owner)
    assert {i: rank for i, rank in enumerate(found.text_ranks) if not np.isnan(rank)} == forward
    assert {j: rank for j, rank in enumerate(found.video_ranks) if not np.isnan(rank)} == backward
    assert found.text_to_video.queries == len(forward)
    assert found.video_to_text.queries == len(backward)
    assert found.text_to_video.r5 == pytest.approx(100 * np.mean([rank <= 5 for rank in forward.values()]))


def test_what_cannot_be_ranked_is_refused():
    good = np.eye(3)
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[1, 2] = bad
        with pytest.raises(ValueError, match="not finite"):
            retrieval_scores(broken)
        assert retrieval_scores(broken, [0, -1, 2]).text_to_video.r1 == 100  # of a missing caption: never looked at
    with pytest.raises(ValueError, match="no caption"):
        retrieval_scores(good, [-1, -1, -1])
    with pytest.raises(ValueError, match="numbers for"):
        retrieval_scores(good, [0, 1, 3])
    with pytest.raises(ValueError, match=r"\(captions, videos\)"):
        retrieval_scores(np.zeros(3))


def test_dual_softmax_is_its_formula_and_overrules_a_video_that_is_near_everything():
    sims = np.array([[0.5, 0.6, 0.1], [0.1, 0.9, 0.2], [0.2, 0.7, 0.6]])
    share = np.exp(sims / 0.1) / np.exp(sims / 0.1).sum(0)
    np.testing.assert_allclose(dual_softmax(sims, 0.1), sims * share, rtol=1e-12)
    assert retrieval_scores(sims).text_to_video.r1 == pytest.approx(100 / 3)
    assert retrieval_scores(dual_softmax(sims, 0.1)).text_to_video.r1 == 100
