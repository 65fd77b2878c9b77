"""People: embedded by modality, indexed, searched and measured, with the network that comes with zoo."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.data import people_trees
from zoo.data.images import expand
from zoo.data.reid_sets import Clue
from zoo.errors import InputError, UsageError
from zoo.index.gallery import Gallery
from zoo.index.store import open_or_create
from zoo.metrics.reid import reid_scores
from zoo.tasks.reid import COLOURED, reid_facts, reid_pipeline
from zoo.tasks.reid_evaluate import Protocol, evaluate_people
from zoo.tasks.reid_gallery import Indexing, search_people, vanished

MODEL = "sgiel_pico"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return people_trees.sysu(tmp_path_factory.mktemp("people"), count=2)


@pytest.fixture(scope="module")
def pipe():
    return reid_pipeline(MODEL)


def indexed(folder, pipe, sources, **options):
    store = open_or_create(str(folder), reid_facts(pipe))
    work = Indexing(pipe, store, **options)
    return store, work, list(work.run(expand(map(str, sources))))


def test_each_modality_goes_its_own_way(people, pipe):
    model = zoo.create_model(MODEL, pretrained=True).eval()
    for camera, modality in ((1, "visible"), (3, "infrared")):
        path = people / f"cam{camera}/0001/0001.jpg"
        result = pipe(path)
        x = pipe.preprocess(Image.open(path).convert("RGB"))[None]
        with torch.no_grad():
            expected = model.embed(x, modality)[0].numpy()
        assert result.modality == modality
        np.testing.assert_allclose(result.vector, expected, atol=1e-6)  # batch norms are laid out another way
    mixed = list(pipe([people / f"cam{camera}/0001/0001.jpg" for camera in (3, 1, 6, 2)]))
    assert [one.modality for one in mixed] == ["infrared", "visible", "infrared", "visible"]
    # a batch of two is summed in another order than one of one
    np.testing.assert_allclose(mixed[1].vector, pipe(people / "cam1/0001/0001.jpg").vector, atol=1e-5)


@pytest.mark.parametrize(("infrared", "expected"), [(False, "visible"), (True, "infrared")])
def test_a_picture_without_a_telling_name_is_judged_by_its_colours(infrared, expected, tmp_path, pipe):
    assert pipe(people_trees.put(tmp_path / "x.png", infrared)).modality == expected


def test_colours_in_an_infrared_picture_are_remarked(tmp_path, pipe):
    path = people_trees.put(tmp_path / "infrared" / "x.png")
    assert pipe(path).note == COLOURED
    told = reid_pipeline(MODEL, told={str(path): "visible"}.get)
    assert (told(path).modality, told(path).note) == ("visible", None)


def test_the_public_pipeline_embeds(people):
    result = zoo.pipeline(MODEL)(people / "cam3/0001/0001.jpg")
    assert result.to_dict()["modality"] == "infrared"
    with pytest.raises(UsageError, match="does not re-identify"):
        reid_pipeline("reste_resnet20_cifar")


def test_indexing_goes_on_where_it_stopped(people, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.tasks.reid_gallery.EVERY", 5)
    store = open_or_create(str(tmp_path / "g"), reid_facts(pipe))
    stream = Indexing(pipe, store).run(expand([str(people / "cam1")]))
    for _ in range(7):
        next(stream)
    stream.close()  # as Ctrl-C does
    assert len(Gallery.open(tmp_path / "g")) == 7
    store, work, _ = indexed(tmp_path / "g", pipe, [people / "cam1"])
    assert (work.unchanged, work.added, len(store)) == (7, 1, 8)
    again = indexed(tmp_path / "g", pipe, [people / "cam1", people / "cam1/0001"])[1]
    assert (again.unchanged, again.added) == (8, 0)


def test_a_changed_picture_is_replaced_and_a_lost_one_found(tmp_path, pipe):
    first, second = (people_trees.put(tmp_path / "p" / f"{name}.png") for name in "ab")
    store, _, _ = indexed(tmp_path / "g", pipe, [tmp_path / "p"])
    before = store.search(pipe(first).vector[None], 1).scores[0, 0]
    Image.new("RGB", (20, 40), "red").save(first)
    store, work, _ = indexed(tmp_path / "g", pipe, [tmp_path / "p"])
    assert (work.unchanged, work.added, len(store)) == (1, 1, 2)
    assert store.search(pipe(first).vector[None], 1).scores[0, 0] == pytest.approx(before, abs=0.1)
    assert store.item(int(store.search(pipe(first).vector[None], 1).rows[0, 0]))["path"] == str(first)
    second.unlink()
    assert [store.item(row)["path"] for row in vanished(store)] == [str(second)]


def test_bad_files_cost_themselves_only(tmp_path, pipe):
    people_trees.put(tmp_path / "p" / "good.png")
    (tmp_path / "p" / "bad.png").write_text("hello")
    store, work, results = indexed(tmp_path / "g", pipe, [tmp_path / "p"])
    assert [bool(one.error) for one in results] == [True, False]
    assert (work.added, len(store)) == (1, 1)


def test_search_ranks_marks_and_leaves_the_query_out(people, pipe, tmp_path):
    store, _, _ = indexed(tmp_path / "g", pipe, [people / "cam1", people / "cam3"])
    query, ghost = people / "cam3/0002/0001.jpg", tmp_path / "no.jpg"
    found, missing = search_people(pipe, store, [str(query), str(ghost)], 5)
    assert str(query) not in [hit.path for hit in found]
    assert "left out" in found.note
    assert [hit.is_right for hit in found] == [hit.label == "2" for hit in found]
    dist = [float(pipe(hit.path).vector @ pipe(query).vector) for hit in found]
    np.testing.assert_allclose([hit.score for hit in found], dist, atol=2e-3)  # the gallery keeps float16
    assert isinstance(missing.error, InputError)
    strict = next(search_people(pipe, store, [str(query)], 5, threshold=2.0))
    assert len(strict) == 0
    assert "nothing reaches 2" in strict.note


def test_search_without_labels_marks_nothing(tmp_path, pipe):
    paths = [people_trees.put(tmp_path / "p" / f"{name}.png", infrared=name == "q") for name in "abq"]
    store, _, _ = indexed(tmp_path / "g", pipe, paths[:2])
    (found,) = search_people(pipe, store, [str(paths[2])], 10)
    assert [hit.is_right for hit in found] == [None, None]
    assert found.note is None
    labels = {str(path): Clue(label="1") for path in paths}
    store, _, _ = indexed(tmp_path / "h", pipe, paths[:2], labels=labels)
    assert next(search_people(pipe, store, [str(paths[2])], labels=labels))[0].is_right


def test_the_same_modality_on_both_sides_is_remarked(people, pipe, tmp_path):
    store, _, _ = indexed(tmp_path / "g", pipe, [people / "cam1"])
    (found,) = search_people(pipe, store, [str(people / "cam2/0001/0001.jpg")], 3)
    assert "all visible, which the network was not trained to compare" in found.note


def test_one_picture_and_none(people, pipe, tmp_path):
    store = open_or_create(str(tmp_path / "g"), reid_facts(pipe))
    with pytest.raises(InputError, match="is empty"):
        next(search_people(pipe, store, [str(people / "cam1/0001/0001.jpg")]))
    store, _, _ = indexed(tmp_path / "g", pipe, [people / "cam1/0001/0001.jpg"])
    (found,) = search_people(pipe, store, [str(people / "cam3/0001/0001.jpg")], 10)
    assert len(found) == 1


def network(path):
    return reid_pipeline(MODEL, checkpoint_path=path)


def measure(data, protocol=None):
    return evaluate_people(network, None, data, protocol or Protocol())


def test_evaluation_is_the_metrics_of_the_embeddings(people, pipe):
    result = measure(people, Protocol(trials=2))
    from zoo.data.reid_sets import sysu_test

    for trial in range(2):
        test = sysu_test(people, trial=trial)
        q, g = ([pipe(one.path).vector for one in side] for side in (test.queries, test.gallery))
        labels = [
            [getattr(one, what) for one in side] for what in ("pid", "camera") for side in (test.queries, test.gallery)
        ]
        scores = reid_scores(-np.stack(q).astype(float) @ np.stack(g).T, *labels)
        assert result.directions[0].trials[trial]["mAP"] == pytest.approx(scores.mAP, abs=1e-9)
    assert result.settings == {
        "mode": "all", "shots": 1, "gallery": "seeded by trial", "feature": "fc", "mirror": True, "rerank": False,
    }  # fmt: skip
    assert "infrared to visible" in result.markdown()
    assert result.draw().width > 100
    assert [one["fpr"] <= asked for one, asked in zip(result.thresholds, (1e-4, 1e-3, 1e-2, 1e-1), strict=True)] == [
        True
    ] * 4


def test_both_directions_come_from_one_extraction(tmp_path):
    result = measure(people_trees.regdb(tmp_path), Protocol(trials=2))
    assert [one.name for one in result.directions] == ["visible to infrared", "infrared to visible"]
    assert [len(one.trials) for one in result.directions] == [2, 2]
    tracks = measure(people_trees.vcm(tmp_path / "v", (13, 14, 12, 12)))
    assert [one.trials[0]["queries"] for one in tracks.directions] == [2, 2]


def test_a_table_and_re_ranking(tmp_path):
    rows = ["path,pid,cam,modality,role"]
    for pid in range(3):
        for role, kind in (("query", "infrared"), ("gallery", "visible")):
            name = people_trees.put(tmp_path / f"{role}{pid}.png", kind == "infrared").name
            rows.append(f"{name},{pid},{1 + (role == 'query')},{kind},{role}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    said = []
    result = evaluate_people(network, None, tmp_path / "t.csv", Protocol(rerank=2), say=said.append)
    assert result.settings["rerank"] == "k-reciprocal on 2"
    assert "MB at a time" in said[0]
    (tmp_path / "t.csv").write_text("\n".join([rows[0], rows[1], rows[4]]))
    with pytest.raises(InputError, match="none of 1 queries"):
        measure(tmp_path / "t.csv")


def test_a_picture_that_fails_costs_itself_only(tmp_path):
    folder = people_trees.sysu(tmp_path, count=2)
    (folder / "cam3/0003/0001.jpg").write_text("hello")
    result = measure(folder, Protocol(trials=1))
    assert len(result.failed) == 1
    assert result.directions[0].trials[0]["queries"] == 7


def test_what_cannot_be_measured(tmp_path):
    people_trees.put(tmp_path / "x.png")
    with pytest.raises(UsageError, match="has no labels"):
        measure(tmp_path)
    with pytest.raises(UsageError, match="no protocol"):
        measure(tmp_path, Protocol("duke"))
    with pytest.raises(UsageError, match="no split 12"):
        measure(people_trees.regdb(tmp_path), Protocol(trials=3, first_trial=10))
