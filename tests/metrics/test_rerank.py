"""Re-ranking: the golden, and the rule spelt out one entry at a time."""

import numpy as np
import pytest

from tests.goldens import Golden
from zoo.metrics.rerank import k_reciprocal, memory_for, rerank

GOLDEN = Golden("sgiel_rerank")


def unit(rng, count, width=8):
    features = rng.standard_normal((count, width)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def euclid(a, b):
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)


def spelt_out(qg, qq, gg, k1, k2, weight):
    """Section 12 of the specification, in loops."""
    count = len(qg)
    dist = np.vstack([np.hstack([qq, qg]), np.hstack([qg.T, gg])]) ** 2
    dist = (dist / dist.max(0)).T
    ranked = np.argsort(dist, axis=1, kind="stable")

    def mutual(i, k):
        return [j for j in ranked[i, : k + 1] if i in ranked[j, : k + 1]]

    near = np.zeros_like(dist)
    for i in range(len(dist)):
        own = mutual(i, k1)
        members = set(own)
        for j in own:
            theirs = mutual(j, round(k1 / 2))
            if len(set(theirs) & set(own)) > 2 / 3 * len(theirs):
                members |= set(theirs)
        for j in members:
            near[i, j] = np.exp(-dist[i, j])
        near[i] /= near[i].sum()
    if k2 > 1:
        near = np.stack([near[ranked[i, :k2]].mean(0) for i in range(len(dist))])
    shared = np.array([[np.minimum(near[i], near[j]).sum() for j in range(count, len(dist))] for i in range(count)])
    return (1 - shared / (2 - shared)) * (1 - weight) + dist[:count, count:] * weight


@pytest.mark.parametrize("case", GOLDEN.facts["cases"], ids=lambda case: case["key"])
def test_equals_the_golden(case):
    a = GOLDEN.arrays
    found = k_reciprocal(a["q_g"], a["q_q"], a["g_g"], case["k1"], case["k2"], case["lambda_value"])
    # float32 sums of up to a hundred weights in another order
    np.testing.assert_allclose(found, a[case["key"]], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (5, 2), (7, 3), (20, 6), (50, 60)])
def test_equals_the_rule(k1, k2):
    rng = np.random.default_rng(k1)
    q, g = unit(rng, 6), unit(rng, 25)
    found = k_reciprocal(euclid(q, g), euclid(q, q), euclid(g, g), k1, k2, 0.3)
    np.testing.assert_allclose(found, spelt_out(euclid(q, g), euclid(q, q), euclid(g, g), k1, k2, 0.3), atol=2e-6)


def test_candidates_are_the_rule_on_each_query_with_them():
    rng = np.random.default_rng(1)
    q, g = unit(rng, 3), unit(rng, 40)
    found = rerank(q, g, top=15, k1=6, k2=3)
    for i in range(len(q)):
        order = np.argsort(euclid(q[i : i + 1], g)[0])
        near = g[order[:15]]
        expected = spelt_out(euclid(q[i : i + 1], near), np.zeros((1, 1)), euclid(near, near), 6, 3, 0.3)[0]
        # a distance of zero by subtraction of squares is off by the root of float32's spacing, once squared by itself
        np.testing.assert_allclose(found[i, order[:15]], expected, atol=2e-5)
        assert (found[i, order[:15]] <= 1).all()
        assert (np.diff(found[i, order[15:]]) > 0).all()
        assert found[i, order[15]] > 1


def test_a_gallery_smaller_than_the_candidates():
    rng = np.random.default_rng(2)
    q, g = unit(rng, 2), unit(rng, 3)
    assert rerank(q, g, top=100).shape == (2, 3)
    assert rerank(q, g[:1]).shape == (2, 1)
    assert np.isfinite(rerank(g[:1], g[:1])).all()  # the same picture on both sides


def test_says_its_memory():
    assert memory_for(1001) == pytest.approx(24e6, rel=0.01)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="distances are"):
        k_reciprocal(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="features are"):
        rerank(np.zeros((2, 3)), np.zeros((2, 4)))
