"""Training grounding on videos in the published layouts: what a lesson shows, a run, and what is kept for the next."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("av")

import zoo
from tests.tasks.test_ground import film
from zoo.data.tube_sets import open_tubes
from zoo.data.zooclips_ground import film_scene, plan_scene
from zoo.errors import InputError, UsageError
from zoo.tasks.ground import ground_pipeline
from zoo.tasks.ground_score import score_model, score_set
from zoo.train.course import Place
from zoo.train.loop import train
from zoo.train.methods import new_method
from zoo.train.plan import plan
from zoo.train.recipe import load_recipe, recipe_names

SIDE, COUNT, RATE = 48, 24, 12
PUBLISHED = ("stvgformer_hcstvg_v1", "stvgformer_hcstvg_v2", "stvgformer_vidstg")
SMALL = (
    "schedule.epochs=1",
    "schedule.warmup=0",
    "schedule.save_every=0",
    "schedule.batch_size=2",
    "method_args.static_epochs=0",
    "method_args.absent=0.0",
    "data.bad_share=0.5",
)


def entry(clip, form):
    """An HC-STVG entry of a clip."""
    span, corners = clip.scene.span, clip.boxes[0].astype(float) * SIDE
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)[span.start : span.end]
    shared = {"bbox": boxes.tolist(), "st_frame": span.start + 1, "img_num": COUNT, "st_time": 0.0, "ed_time": 1.0}
    if form == "v1":
        return {**shared, "width": SIDE, "height": SIDE, "caption": clip.scene.sentence}
    return {**shared, "img_size": [SIDE, SIDE], "English": clip.scene.sentence}


def vidstg(clip, name):
    """A VidSTG entry of a clip and VidOR's file of its boxes; the first two frames are not used."""
    span = clip.scene.span
    asked = [{"description": clip.scene.sentence, "type": "person", "target_id": 0}]
    item = {
        "vid": name,
        "fps": RATE,
        "width": SIDE,
        "height": SIDE,
        "used_segment": {"begin_fid": 2, "end_fid": COUNT},
        "temporal_gt": {"begin_fid": max(2, span.start), "end_fid": span.end},
        "captions": asked,
        "questions": [{**asked[0], "description": f"who is {clip.scene.sentence}"}],
    }
    sides = ("xmin", "ymin", "xmax", "ymax")
    frames = [[{"tid": 0, "bbox": dict(zip(sides, box.tolist(), strict=True))}] for box in clip.boxes[0] * SIDE]
    return item, {"trajectories": frames}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Four films in every layout, a broken one among them, and an annotation without its video."""
    root = tmp_path_factory.mktemp("sets")
    clips = {f"{seed}": film_scene(plan_scene(seed, COUNT), SIDE) for seed in range(500_000, 500_004)}
    for form in ("v1", "v2"):
        folder = root / f"hcstvg_{form}"
        (folder / "video" / "part").mkdir(parents=True)
        document = {f"{name}.mp4": entry(clip, form) for name, clip in clips.items()}
        document |= {"bad.mp4": document["500000.mp4"], "gone.mp4": document["500000.mp4"]}
        (folder / "video" / "bad.mp4").write_text("no video")
        for name, clip in clips.items():
            film(folder / "video" / "part" / f"{name}.mp4", clip.frames)
        suffix = "_v2" if form == "v2" else ""
        for split in ("train", "test", "val"):
            (folder / f"{split}{suffix}.json").write_text(json.dumps(document))
    folder = root / "vidstg"
    (folder / "vidor" / "0001").mkdir(parents=True)
    items = []
    for name, clip in clips.items():
        film(folder / "vidor" / f"{name}.mp4", clip.frames)
        item, boxes = vidstg(clip, name)
        items.append(item)
        (folder / "vidor" / "0001" / f"{name}.json").write_text(json.dumps(boxes))
    for split in ("train", "test"):
        (folder / f"{split}_annotations.json").write_text(json.dumps(items))
    return root


def course(root, name, *overrides):
    recipe = load_recipe("stvgformer_tiny", (*SMALL, f"data.name={name}", "data.eval_split=test", *overrides))
    return new_method(recipe.method, **recipe.method_args).course(recipe, Place(root, torch.device("cpu"), workers=0))


@pytest.mark.parametrize(("name", "count"), [("hcstvg_v1", 5), ("hcstvg_v2", 5), ("vidstg", 8)])
def test_published_layouts_are_read(sets, name, count):
    tubes = open_tubes(name, "train", sets)
    assert len(tubes) == count
    assert all(path.is_file() for path in tubes.videos)
    assert [line.partition(":")[0] for line in tubes.bad] == (["gone.mp4"] if name != "vidstg" else [])
    good = next(sample for sample in tubes.samples if sample.video.startswith("500001"))
    clip = film_scene(plan_scene(500_001, COUNT), SIDE)
    frame = good.tube.start + good.start
    np.testing.assert_allclose(good.tube.boxes[0], clip.boxes[0, frame] * SIDE, atol=1e-3)  # float32 in the film


def test_a_set_that_is_not_there(sets):
    with pytest.raises(InputError, match="no annotations of 'dev'"):
        open_tubes("hcstvg_v1", "dev", sets)
    (sets / "empty").mkdir(exist_ok=True)
    (sets / "empty" / "train.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        open_tubes("empty", "train", sets)


def test_a_lesson_is_the_same_whenever_it_is_asked_for(sets):
    chance = ("method_args.cut=0.5", "method_args.trim=0.5", "method_args.scales=[0.5, 1.0]")
    early, late = (list(course(sets, "hcstvg_v1", *chance).batches(3, first)) for first in (0, 1))
    for (one, _), (other, _) in zip(early[1].films, late[0].films, strict=True):
        assert one.sentences == other.sentences
        torch.testing.assert_close(one.frames, other.frames)
        torch.testing.assert_close(one.boxes, other.boxes)


@pytest.mark.parametrize("name", ["hcstvg_v2", "vidstg"])
def test_boxes_stay_on_who_is_meant_however_a_film_is_cut(sets, name):
    """Cut, scaled and trimmed, the picture inside the box is the person's: it has the colours of the whole film's."""
    whole = {s.sentence: s for s in open_tubes(name, "train", sets).samples if s.video != "bad.mp4"}
    for epoch in range(2):
        for batch in course(sets, name, "method_args.cut=1.0", "method_args.trim=1.0").batches(epoch, 0):
            for films, _ in batch.films:
                sample = whole[films.sentences[0]]
                clip = film_scene(plan_scene(int(sample.video.removesuffix(".mp4")), COUNT), SIDE)
                assert films.marked.any()
                start, end, duration = films.spans[0].tolist()
                assert 0 <= start < end <= duration + 1e-6
                assert end - start == pytest.approx((sample.tube.end - sample.tube.start) / RATE, abs=1e-3)
                t = int(films.marked[0].nonzero()[0])
                at = (t + 0.5) / 10 * duration - start  # seconds behind the span's beginning
                frame = sample.start + sample.tube.start + int(max(0.0, at) * RATE + 1e-6)
                expected = inside(clip.frames[frame] / 255.0, clip.boxes[0, frame])
                picture = films.frames[0, t].permute(1, 2, 0).numpy()
                x, y, w, h = films.boxes[0, t].tolist()
                found = inside(picture, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
                np.testing.assert_allclose(found, expected, atol=0.12)  # the film was compressed, the box is rounded


def inside(picture, box):
    """Mean colour of the middle half of a box given as shares."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    wide, high = (right - left) / 4, (bottom - top) / 4
    rows = slice(round((top + high) * height), max(round((bottom - high) * height), round((top + high) * height) + 1))
    columns = slice(round((left + wide) * width), max(round((right - wide) * width), round((left + wide) * width) + 1))
    return picture[rows, columns].mean((0, 1))


def test_a_run_from_files_leaves_out_what_is_broken(sets, tmp_path):
    overrides = (*SMALL, "data.name=hcstvg_v1", "data.eval_split=test", "schedule.accumulate=2")
    small = "model_args={dim = 16, heads = 2, depth = 1, hidden = 16, map_dim = 8}"
    recipe = load_recipe("stvgformer_tiny", (*overrides, small, "method_args.rates={backbone = 0.0, static = 0.1}"))
    file = train(recipe, tmp_path / "run", data=sets, device="cpu", workers=0)
    (logged,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= logged["test_m_vIoU"] <= 100
    assert logged["bad_files"] >= 2  # one broken, one gone
    model = zoo.create_model("stvgformer_tiny", checkpoint_path=file)
    assert model.dim == 16


def test_what_the_clip_encoder_sees_is_made_once(sets, tmp_path):
    small = "{video = 'r3d18', dim = 16, heads = 2, depth = 1, hidden = 16, map_dim = 8, frames = 2, size = 24}"
    args = (f"model_args={small}", f"method_args.features={json.dumps(str(tmp_path))}", "method_args.cut=0.5")
    taught = course(sets, "vidstg", *args)
    torch.manual_seed(0)
    model = zoo.create_model("stvgformer_tiny", video="r3d18", **{"dim": 16, "heads": 2, "depth": 1, "hidden": 16})
    model = model.train()
    part = next(taught.batches(0, 0)).parts(1)[0]
    assert all(seen.maps is None for _, seen in part)
    first = taught.loss(model, part)
    kept = list(tmp_path.glob("*.safetensors"))
    assert kept
    again = next(taught.batches(0, 0)).parts(1)[0]
    assert all(seen.maps is not None for _, seen in again)
    torch.testing.assert_close(taught.loss(model, again), first)
    kept[0].write_bytes(b"cut off")
    mended = next(taught.batches(0, 0)).parts(1)[0]
    torch.testing.assert_close(taught.loss(model, mended), first)


def test_a_model_is_judged_on_a_set(sets):
    result = score_model("stvgformer_tiny", "vidstg", "test", root=sets, device="cpu")
    assert result.figures["all"]["samples"] == 8
    assert set(result.figures) == {"all", "declarative", "interrogative"}
    broken = score_model("stvgformer_tiny", "hcstvg_v1", "test", root=sets, device="cpu", convention="tubedetr")
    assert broken.figures["all"]["missing"] == 1
    assert len(broken.bad) == 2
    with pytest.raises(UsageError, match="no convention"):
        score_model("stvgformer_tiny", "vidstg", "test", root=sets, convention="mine")


def test_the_truth_of_a_set_scores_what_a_network_of_the_truth_would(sets):
    """Frames are counted alike on both sides: true boxes and spans, put in place of a network's, score near one."""

    class Oracle:
        def encode(self, path, **part):
            return pipe.encode(path, **part)

        def every_frame(self, video, sentence):
            sample = next(s for s in tubes.samples if s.sentence == sentence)
            boxes = np.zeros((len(video.times), 4))
            first = sample.start + sample.tube.start
            boxes[first : first + len(sample.tube.boxes)] = sample.tube.boxes
            return type(sample.tube)(first, first + len(sample.tube.boxes), boxes, 0)

    pipe = ground_pipeline("stvgformer_tiny", device="cpu", window=1e9)
    for name in ("hcstvg_v2", "vidstg"):
        tubes = open_tubes(name, "test", sets)
        scores, _, bad = score_set(Oracle(), tubes)
        unread = [line.startswith("bad.mp4") for line in bad]
        assert scores.m_vIoU * len(tubes) == pytest.approx(len(tubes) - sum(unread))


def test_recipes_of_the_paper(sets):
    assert set(PUBLISHED) <= set(recipe_names())
    epochs = {name: load_recipe(name).schedule.epochs for name in PUBLISHED}
    assert list(epochs.values()) == [10, 4, 10]
    model = zoo.create_model("stvgformer_tiny")
    recipe = load_recipe("stvgformer_hcstvg_v2")
    groups = new_method(recipe.method, **recipe.method_args).groups(model)
    shares = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    expected = {
        "backbone.0.body.conv2.weight": 0.1,
        "static.encoder.layers.0.linear1.weight": 0.5,
        "collab.1.mix_attn.in_proj_weight": 0.5,
        "collab.1.fc.weight": 1.0,
        "dynamic.layers.0.norm_s.weight": 1.0,
    }
    assert {name: shares[id(named[name])] for name in expected} == expected
    for name in ("backbone.0.body.conv1.weight", "video_encoder.convs.0.weight"):
        assert not named[name].requires_grad


def test_what_a_training_would_be_without_its_data(tmp_path):
    small = "model_args={image = 'convs', video = 'convs', text = 'word', vocabulary = ['red'], dim = 16, depth = 1}"
    found = plan(load_recipe("stvgformer_hcstvg_v2", (small,)), tmp_path)
    assert found["steps"] is None
    assert found["memory_bytes"]["activations"] is None
    assert found["memory_bytes"]["average"] == found["memory_bytes"]["weights"] > 0


def test_what_a_training_would_be(sets):
    small = "model_args={dim = 16, heads = 2, depth = 1, hidden = 16, map_dim = 8}"
    overrides = (*SMALL, "data.name=hcstvg_v2", "data.eval_split=val", "schedule.accumulate=2", small)
    found = plan(load_recipe("stvgformer_tiny", overrides), sets)
    assert (found["examples"], found["steps"]) == (4, 2)
    assert found["memory_bytes"]["activations"] > 0
