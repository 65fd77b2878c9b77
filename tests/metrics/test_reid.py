"""Re-identification metrics: the official code's figures, and a loop that a reader can check against the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import zoo
from tests.goldens import Golden
from zoo.metrics.reid import PROTOCOLS, reid_scores

GOLDEN = Golden("sgiel_reid_metrics")
CMC, MEAN = 1e-6, 1e-9  # the official CMC is float32, its means are float64


def of_case(name):
    keys = ("dist", "q_pids", "g_pids", "q_cams", "g_cams")
    return [GOLDEN.arrays[f"{name}__{key}"] for key in keys]


def recorded():
    """Every case and protocol that the official code gave figures for."""
    names = [key.removesuffix("_mAP") for key in GOLDEN.arrays if key.endswith("_mAP")]
    pairs = [tuple(name.split("__")) for name in names]
    assert len(pairs) > 20
    return pairs


@pytest.mark.parametrize(("case", "protocol"), recorded())
def test_equals_the_official_code(case, protocol):
    scores = reid_scores(*of_case(case), protocol.removesuffix("_full"), max_rank=None if "full" in protocol else 20)
    expected = {key: GOLDEN.arrays.get(f"{case}__{protocol}_{key}") for key in ("cmc", "mAP", "mINP")}
    full = len(expected["cmc"])
    np.testing.assert_allclose(scores.cmc[:full], expected["cmc"], rtol=0, atol=CMC)
    assert abs(scores.mAP - expected["mAP"]) <= MEAN
    if expected["mINP"] is not None:
        assert abs(scores.mINP - expected["mINP"]) <= MEAN
    recorded_valid = GOLDEN.facts[case].get(f"{protocol}_valid_queries") or GOLDEN.facts[case][protocol].get("valid")
    if recorded_valid is not None:
        assert scores.queries == recorded_valid


@pytest.mark.parametrize("protocol", ["sysu_full", "sysu", "regdb"])
def test_a_small_gallery_cuts_the_curve(protocol):
    scores = reid_scores(*of_case("tiny"), protocol.removesuffix("_full"))
    assert len(scores.cmc) == len(GOLDEN.arrays[f"tiny__{protocol}_cmc"])


def test_no_valid_query_is_an_error():
    with pytest.raises(ValueError, match="none of 5 queries"):
        reid_scores(*of_case("no_valid_query"), "sysu")


def by_the_definition(dist, qid, gid, qcam, gcam, protocol):
    """Section by section: sort, leave out, count; one query at a time."""
    curves, ap, inp = [], [], []
    length = len(np.unique(gid)) if protocol == "sysu" else len(gid)
    for i in range(len(qid)):
        order = np.argsort(dist[i], kind="stable")
        if protocol == "sysu":
            order = [j for j in order if not (qcam[i] == 3 and gcam[j] == 2)]
        if protocol in ("vcm", "market"):
            order = [j for j in order if not (gid[j] == qid[i] and gcam[j] == qcam[i])]
        ranks = [place for place, j in enumerate(order, 1) if gid[j] == qid[i]]
        if not ranks:
            ap.append(np.nan)
            inp.append(np.nan)
            continue
        ap.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
        inp.append(len(ranks) / ranks[-1])
        counted = list(dict.fromkeys(gid[j] for j in order)) if protocol == "sysu" else [gid[j] for j in order]
        curves.append(np.arange(length) >= counted.index(qid[i]))
    return np.mean(curves, 0) if curves else None, np.array(ap), np.array(inp)


@given(data=st.data(), protocol=st.sampled_from(PROTOCOLS), kind=st.sampled_from((np.float32, np.float64, np.int64)))
def test_equals_the_definition(data, protocol, kind):
    queries, gallery = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    # few values, so that many distances are equal
    dist = data.draw(arrays(np.int64, (queries, gallery), elements=st.integers(0, 4))).astype(kind)
    qid, gid = (data.draw(arrays(np.int64, n, elements=st.integers(0, 4))) for n in (queries, gallery))
    qcam, gcam = (data.draw(arrays(np.int64, n, elements=st.integers(1, 4))) for n in (queries, gallery))
    cmc, ap, inp = by_the_definition(dist, qid, gid, qcam, gcam, protocol)
    if cmc is None:
        with pytest.raises(ValueError, match="none of"):
            reid_scores(dist, qid, gid, qcam, gcam, protocol)
        return
    scores = reid_scores(dist, qid, gid, qcam, gcam, protocol, max_rank=None)
    np.testing.assert_array_equal(scores.cmc, cmc)
    # sums of at most twelve quotients in another order
    np.testing.assert_allclose(scores.ap, ap, rtol=1e-14)
    np.testing.assert_allclose(scores.inp, inp, rtol=1e-14)
    assert scores.skipped == np.isnan(ap).sum()
    assert scores.mAP == pytest.approx(np.nanmean(ap), rel=1e-14)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_blocks_do_not_matter(protocol, monkeypatch):
    rng = np.random.default_rng(0)
    dist = rng.standard_normal((40, 60)).round(1)
    labels = [rng.integers(0, 9, n) for n in (40, 60)] + [rng.integers(1, 5, n) for n in (40, 60)]
    whole = reid_scores(dist, *labels, protocol)
    monkeypatch.setattr("zoo.metrics.reid.BLOCK", 1)
    alone = reid_scores(dist, *labels, protocol)
    np.testing.assert_array_equal(whole.cmc, alone.cmc)
    np.testing.assert_allclose(whole.ap, alone.ap, rtol=1e-14)  # rows of another width are summed in another order
    np.testing.assert_array_equal(whole.inp, alone.inp)


def test_takes_tensors_under_its_public_name():
    dist, *labels = of_case("learned")
    scores = zoo.metrics.reid_scores(torch.from_numpy(dist), *map(torch.from_numpy, labels), protocol="regdb")
    assert scores.to_dict() == reid_scores(dist, *labels, protocol="regdb").to_dict()
    assert scores.rank(1) == scores.cmc[0]
    assert scores.rank(500) == scores.cmc[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dist": np.zeros(3)}, "dist is"),
        ({"dist": np.full((2, 3), np.nan)}, "not a number"),
        ({"query_ids": [1, 2, 3]}, "identities are"),
        ({"query_ids": [0.5, 1.0]}, "whole numbers"),
        ({"gallery_cams": [1]}, "cameras are"),
        ({"query_cams": None}, "needs cameras"),
        ({"protocol": "duke"}, "no protocol"),
    ],
)
def test_nonsense_is_refused(changed, message):
    given = {
        "dist": np.zeros((2, 3)),
        "query_ids": [1, 2],
        "gallery_ids": [1, 2, 2],
        "query_cams": [3, 6],
        "gallery_cams": [1, 2, 4],
    }
    with pytest.raises(ValueError, match=message):
        reid_scores(**{**given, **changed})
