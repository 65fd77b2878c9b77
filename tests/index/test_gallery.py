"""A gallery on disk: exact, whole at any moment, never more than one step behind."""

import multiprocessing
import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InputError, IntegrityError, UsageError
from zoo.index.exact import NOTHING, rescored
from zoo.index.facts import Facts
from zoo.index.gallery import Gallery
from zoo.index.store import open_or_create, open_store

FACTS = Facts(task="reid", model="net.tag", weights="a" * 64, preprocessing="b" * 64, dim=8)


def facts(**changed):
    fields = {name: getattr(FACTS, name) for name in FACTS.__struct_fields__}
    return Facts(**{**fields, **changed})


def vectors(count, seed=0, dim=8, per_item=1):
    return np.random.default_rng(seed).standard_normal((count, per_item, dim)).astype(np.float16)


def named(*numbers):
    return [{"path": f"{number}.png"} for number in numbers]


def filled(folder, count=20, **changed):
    gallery = Gallery.create(folder, facts(**changed))
    gallery.append(vectors(count, per_item=gallery.facts.per_item), named(*range(count)))
    return gallery


def paths(gallery):
    return [item["path"] for _, item in gallery.items()]


def by_sorting(values, queries, k, gone=()):
    """Row, score and prototype by a full sort of all scores in float64."""
    scores = np.einsum("qd,nkd->qnk", queries.astype(np.float64), values.astype(np.float64))
    best = scores.max(2).astype(np.float32)
    best[:, list(gone)] = -np.inf
    rows = np.argsort(-best, axis=1, kind="stable")[:, : min(k, values.shape[0] - len(gone))]
    each = np.arange(len(queries))[:, None]
    return rows, best[each, rows], scores.argmax(2)[each, rows]


@given(data=st.data())
def test_search_is_a_full_sort(data, tmp_path_factory):
    count, per_item = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    queries, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # few values, so that scores are exact and many are equal
    values = rng.integers(-2, 3, (count, per_item, 4)).astype(np.float16)
    asked = rng.integers(-2, 3, (queries, 4)).astype(np.float32)
    gone = sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1)))
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=3)) | {count})
    gallery = Gallery.create(tmp_path_factory.mktemp("g") / "g", facts(dim=4, per_item=per_item))
    for start, end in zip([0, *cuts], cuts, strict=False):
        gallery.append(values[start:end], named(*range(start, end)))
    gallery.remove(gone)
    hits = gallery.search(asked, k)
    rows, scores, prototypes = by_sorting(values, asked, k, gone)
    found = rows.shape[1]
    np.testing.assert_array_equal(hits.rows[:, :found], rows)
    np.testing.assert_array_equal(hits.scores[:, :found], scores)
    np.testing.assert_array_equal(hits.prototypes[:, :found], prototypes)
    assert (hits.rows[:, found:] == NOTHING).all()
    assert len(gallery) == count - len(gone)


@pytest.mark.parametrize("limits", [{"BUFFER": 64}, {"SCORES": 1}, {"BUFFER": 1}])
def test_blocks_do_not_matter(limits, tmp_path, monkeypatch):
    gallery = filled(tmp_path / "g", 300, per_item=3)
    asked = vectors(7, seed=1)[:, 0].astype(np.float32)
    whole = gallery.search(asked, 10)
    for name, value in limits.items():
        monkeypatch.setattr(f"zoo.index.exact.{name}", value)
    parts = gallery.search(torch.from_numpy(asked), 10)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.scores, parts.scores)  # scored again in float64


def test_a_candidate_that_stands_twice_is_answered_once(tmp_path):
    """As when a graph was written and its list of rows was not: what it covers is searched once more."""
    gallery = filled(tmp_path / "g", 4)
    hits = rescored(torch.randn(1, 8), np.array([[2, 0, 2, NOTHING, 0]]), gallery.take, 3)
    assert sorted(hits.rows[0].tolist()) == [NOTHING, 0, 2]


def test_small_steps_leave_few_files_and_the_same_rows(tmp_path):
    gallery, values = Gallery.create(tmp_path / "g", FACTS), vectors(60)
    for i in range(0, 60, 3):
        gallery.append(values[i : i + 3], named(i, i + 1, i + 2), removing=[i - 2] if i else [])
    gone = [i - 2 for i in range(3, 60, 3)]
    assert gallery.info()["shards"] <= 4
    assert paths(gallery) == [f"{i}.png" for i in range(60) if i not in gone]
    asked = values[:5, 0].astype(np.float32)
    np.testing.assert_array_equal(gallery.search(asked, 6).rows, by_sorting(values, asked, 6, gone)[0])
    before = [gallery.take_items(row) for row in gallery.search(asked, 6).rows.tolist()]
    numbering = gallery.numbering
    gallery.compact()
    assert (gallery.removed, gallery.info()["shards"]) == (0, 1)
    assert gallery.numbering != numbering
    assert [gallery.take_items(row) for row in gallery.search(asked, 6).rows.tolist()] == before
    assert len(list((tmp_path / "g").glob("*.jsonl"))) == 1


def test_full_shards_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.index.gallery.SHARD", 2 * 8 * 7)  # seven items
    gallery = filled(tmp_path / "g", 20)
    assert gallery.info()["shards"] == 3
    gallery.remove([0, 8, 19])
    gallery.compact()
    assert gallery.info()["shards"] == 3
    assert paths(gallery) == [f"{i}.png" for i in range(20) if i not in (0, 8, 19)]


def test_a_reader_keeps_what_it_opened(tmp_path):
    gallery = filled(tmp_path / "g")
    reader = Gallery.open(tmp_path / "g")
    gallery.append(vectors(5, seed=2), named(*range(20, 25)))
    gallery.compact()
    asked = vectors(3, seed=1)[:, 0].astype(np.float32)
    assert len(reader) == 20
    np.testing.assert_array_equal(reader.search(asked, 4).rows, by_sorting(vectors(20), asked, 4)[0])
    with pytest.raises(InputError, match="compacted while it was open"):
        reader.item(0)
    assert len(Gallery.open(tmp_path / "g")) == 25


def test_rows_that_a_compaction_renumbered_are_not_removed(tmp_path):
    gallery = filled(tmp_path / "g", 4)
    gallery.remove([0])
    indexing = Gallery.open(tmp_path / "g")
    Gallery.open(tmp_path / "g").compact()
    for change in (
        lambda: indexing.append(vectors(1), named(1), removing=[1]),
        lambda: indexing.append(vectors(1), named(4)),  # it would show new numbers to who holds old ones
        lambda: indexing.remove([1]),
    ):
        with pytest.raises(InputError, match="compacted while it was open"):
            change()
    assert paths(Gallery.open(tmp_path / "g")) == ["1.png", "2.png", "3.png"]


def _append_for_ever(folder):
    gallery = Gallery.open(folder)
    for i in range(10_000):
        gallery.append(vectors(4, seed=i), named(*range(4 * i, 4 * i + 4)))


def test_a_killed_writer_loses_one_step_at_most(tmp_path):
    Gallery.create(tmp_path / "g", FACTS)
    writer = multiprocessing.get_context("spawn").Process(target=_append_for_ever, args=(tmp_path / "g",))
    writer.start()
    while len(Gallery.open(tmp_path / "g")) < 40:  # a reader is never in the way, nor the writer in its way
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    gallery = Gallery.open(tmp_path / "g")
    count = len(gallery)
    assert count % 4 == 0
    assert paths(gallery) == [f"{i}.png" for i in range(count)]
    gallery.append(vectors(1), named(count))  # clears away what was left, and goes on
    assert paths(Gallery.open(tmp_path / "g"))[-1] == f"{count}.png"
    names = {path.stem for path in (tmp_path / "g").glob("*.safetensors")}
    assert len(names) == gallery.info()["shards"]


@pytest.mark.parametrize("step", ["jsonl", "safetensors", "gallery.json"])
def test_a_full_disk_changes_nothing(step, tmp_path, monkeypatch):
    gallery = filled(tmp_path / "g")
    real = __import__("zoo.index.gallery", fromlist=["write_whole"]).write_whole

    def write(path, data):
        if path.name.endswith(step):
            raise InputError(f"{path} cannot be written: No space left on device")
        real(path, data)

    monkeypatch.setattr("zoo.index.gallery.write_whole", write)
    with pytest.raises(InputError, match="No space"):
        gallery.append(vectors(3, seed=5), named(20, 21, 22), removing=[0])
    assert paths(gallery) == paths(Gallery.open(tmp_path / "g")) == [f"{i}.png" for i in range(20)]


def test_one_writer_at_a_time(tmp_path):
    gallery = filled(tmp_path / "g")
    with gallery._writing(), pytest.raises(InputError, match="another process writes"):
        Gallery.open(tmp_path / "g").remove([0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "other.tag"}, "made by net.tag for reid; this is other.tag"),
        ({"task": "retrieve"}, "for reid; this is net.tag for retrieve"),
        ({"weights": "c" * 64}, "other weights of net.tag: aaaaaaaaaaaa, not cccccccccccc"),
        ({"preprocessing": "c" * 64}, "other preprocessing"),
        ({"settings": {"mirror": False}}, "settings"),
    ],
)
def test_another_networks_gallery_is_refused(changed, message, tmp_path):
    filled(tmp_path / "g")
    with pytest.raises(UsageError, match=message):
        open_or_create(str(tmp_path / "g"), facts(**changed))
    assert len(open_or_create(str(tmp_path / "g"), FACTS)) == 20


def test_what_is_no_gallery(tmp_path):
    with pytest.raises(UsageError, match="there is no gallery"):
        open_store(str(tmp_path / "g"))
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "cat.png").touch()
    with pytest.raises(UsageError, match="is not empty"):
        Gallery.create(tmp_path / "g", FACTS)
    with pytest.raises(UsageError, match="no address"):
        open_store("g", "somewhere")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def _newer(path):
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9'))


@pytest.mark.parametrize(
    ("pattern", "spoil", "error", "message"),
    [
        ("*.safetensors", _cut, IntegrityError, "header promises"),
        ("*.safetensors", lambda path: path.unlink(), IntegrityError, "lacks its file"),
        ("*.jsonl", lambda path: path.unlink(), IntegrityError, r"lacks its file 00000001\.jsonl"),
        ("gallery.json", _cut, IntegrityError, "damaged"),
        ("gallery.json", _newer, InputError, "format 9"),
    ],
)
def test_damage_is_named(pattern, spoil, error, message, tmp_path):
    filled(tmp_path / "g")
    spoil(next((tmp_path / "g").glob(pattern)))
    with pytest.raises(error, match=message):
        Gallery.open(tmp_path / "g")


def test_nonsense_is_refused(tmp_path):
    gallery = filled(tmp_path / "g")
    for call, message in [
        (partial(gallery.append, vectors(2), named(1)), "vectors are"),
        (partial(gallery.append, np.full((1, 8), np.nan), named(1)), "finite"),
        (partial(gallery.append, np.full((1, 8), 1e6), named(1)), "finite"),
        (partial(gallery.remove, [20]), "rows 20"),
        (partial(gallery.search, np.zeros((1, 9)), 1), "queries are"),
        (partial(gallery.search, np.full((1, 8), np.inf), 1), "not finite"),
        (partial(gallery.search, np.zeros((1, 8)), 0), "k from 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert len(gallery) == 20


def test_an_empty_gallery_answers_nothing(tmp_path):
    gallery = Gallery.create(tmp_path / "g", FACTS)
    assert (gallery.search(np.ones((2, 8)), 3).rows == NOTHING).all()
    assert list(gallery.items()) == []
