import shutil

import numpy as np
import pytest

pytest.importorskip("usearch")

from tests.index.test_gallery import facts, named
from zoo.errors import InputError, IntegrityError, UsageError
from zoo.index.approximate import build_approximate, open_approximate
from zoo.index.gallery import Gallery


@pytest.fixture
def gallery(tmp_path):
    """400 items of two vectors around 20 centres, as people's embeddings lie."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 1, 1, 128))
    values = (centres + rng.standard_normal((20, 20, 2, 128))).reshape(400, 2, 128)
    found = Gallery.create(tmp_path / "g", facts(dim=128, per_item=2))
    found.append(values, named(*range(400)))
    return found


def asked(count=20):
    """Others of the same people."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 1, 1, 128))[:count, 0, 0]
    return (centres + np.random.default_rng(1).standard_normal(centres.shape)).astype(np.float32)


def test_finds_nearly_all_and_scores_them_exactly(gallery):
    graph = build_approximate(gallery)
    assert graph.recall > 0.95
    exact, near = gallery.search(asked(), 10), open_approximate(Gallery.open(gallery.folder)).search(asked(), 10)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact.rows, near.rows, strict=True)]) > 9.5
    same = exact.rows == near.rows
    assert same.any()
    np.testing.assert_array_equal(exact.scores[same], near.scores[same])
    np.testing.assert_array_equal(exact.prototypes[same], near.prototypes[same])


def test_sees_what_came_later_and_not_what_went(gallery):
    build_approximate(gallery)
    best = int(gallery.search(asked(count=1), 1).rows[0, 0])
    gallery.append(10 * asked(count=1)[:, None].repeat(2, 1), named("new"), removing=[best])
    hits = open_approximate(gallery).search(asked(count=1), 10)
    assert gallery.item(int(hits.rows[0, 0]))["path"] == "new.png"
    assert best not in hits.rows


def test_a_neighbourhood_that_was_removed_does_not_hide_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    person = rng.standard_normal((1, 128)).astype(np.float32)
    values = np.concatenate([person + 0.3 * rng.standard_normal((300, 128)), rng.standard_normal((300, 128))])
    gallery = Gallery.create(tmp_path / "g", facts(dim=128))
    gallery.append(values, named(*range(600)))
    build_approximate(gallery)
    gallery.remove(np.arange(300))  # more than the candidates that a search begins with
    near = open_approximate(gallery).search(person, 10).rows
    assert (near >= 300).all()
    # strangers are all about as far; seven of the ten are found, 6 to 8 with other seeds
    exact = gallery.search(person, 10).rows
    assert len(np.intersect1d(exact, near)) >= 5


def test_a_compaction_makes_it_stale(gallery):
    with pytest.raises(UsageError, match="no approximate index"):
        open_approximate(gallery)
    build_approximate(gallery)
    gallery.compact()
    with pytest.raises(UsageError, match="older than its compaction"):
        open_approximate(gallery)
    build_approximate(gallery)
    (gallery.folder / "approximate.usearch").write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match="damaged"):
        open_approximate(gallery)


def test_a_graph_that_cannot_be_written_is_one_line(gallery):
    shutil.rmtree(gallery.folder)
    with pytest.raises(InputError, match=r"approximate\.usearch cannot be written"):
        build_approximate(gallery)
