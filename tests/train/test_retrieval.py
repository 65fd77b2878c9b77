"""Training for retrieval: lessons that depend on seed, epoch and step alone, a run from files, what the method adds."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import zoo
from tests.films import write_people
from zoo.data.captions import caption_sets, protocol
from zoo.data.zooclips import plan_clip
from zoo.errors import InputError, UsageError
from zoo.losses.tmvm import contrast, prototype_variance
from zoo.models.tmvm import Compared, match
from zoo.train.course import Place
from zoo.train.loop import train
from zoo.train.methods import new_method
from zoo.train.recipe import load_recipe
from zoo.train.retrieval import ClipCourse

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Nine drawn videos with their captions and one that is broken, and three to be tested on."""
    folder = tmp_path_factory.mktemp("films")
    for split, seeds in (("train", range(9)), ("test", range(20, 23))):
        rows = []
        for seed in seeds:
            write_people(folder / f"{seed}.mp4", seed, 1.0)
            rows.append({"video": f"{seed}.mp4", "captions": list(plan_clip(seed).captions)})
        if split == "train":
            (folder / "bad.mp4").write_text("no video")
            rows.append({"video": "bad.mp4", "captions": ["a person in red"]})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def recipe(films, *overrides):
    own = (f'data.name="{films.name}"', "schedule.batch_size=5", "schedule.epochs=2", "data.bad_share=0.5")
    return load_recipe("tmvm_tiny", (*own, "schedule.evaluate_every=1", *overrides))


def course(films, *overrides, **place) -> ClipCourse:
    return new_method("tmvm").course(recipe(films, *overrides), Place(films.parent, CPU, workers=0, **place))


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True)) and a.bad == b.bad


def test_a_lesson_depends_on_seed_epoch_and_step_alone(films):
    one, two = course(films), course(films)
    first = list(one.batches(0, 0))
    assert len(first) == one.steps == 2
    assert same(first[1], next(two.batches(0, 1)))
    assert not same(first[1], next(two.batches(1, 1)))
    assert not same(first[1], next(course(films, "seed=5").batches(0, 1)))
    assert sum(len(lesson.bad) for lesson in first) == 1  # the broken one; another stands in for it
    assert first[0].video.shape == (5, 4, 64, 64, 3)


def test_processes_share_a_batch(films):
    whole = next(course(films).batches(0, 0))
    parts = [next(course(films, rank=rank, world=2).batches(0, 0)) for rank in range(2)]
    assert torch.equal(torch.cat((parts[0].video, parts[1].video)), whole.video[[0, 2, 4, 1, 3]])
    assert [len(part.video) for part in next(course(films, "schedule.batch_size=4").batches(0, 0)).parts(2)] == [2, 2]


def test_a_run_from_files_ends_in_a_checkpoint_that_works(films, tmp_path):
    file = train(recipe(films), tmp_path / "run", data=films.parent, device="cpu", workers=0)
    model = zoo.create_model("tmvm_tiny", checkpoint_path=file)
    assert model.num_prototypes == 4
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_t2v_mnr"] >= 1
    assert last["bad_files"] == 1
    assert sum(value for key, value in last.items() if key.startswith("test_usage")) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_run_that_is_cut_ends_with_the_same_bits(films, tmp_path):
    def stop(progress):
        if progress.epoch == 1 and progress.step == progress.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(films), tmp_path / "a", data=films.parent, device="cpu", workers=0, report=stop)
    cut = train(recipe(films), tmp_path / "a", data=films.parent, device="cpu", workers=0)
    whole = train(recipe(films), tmp_path / "b", data=films.parent, device="cpu", workers=0)
    ours, theirs = (zoo.create_model("tmvm_tiny", checkpoint_path=file).state_dict() for file in (cut, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_few_clips_can_be_learnt_by_heart():
    torch.manual_seed(0)
    model = zoo.create_model("tmvm_tiny").train()
    method = new_method("tmvm")
    video = torch.randn(6, 4, 3, 64, 64)
    ids = torch.randint(2, 36, (6, 5))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(25):
        loss = method.retrieval_loss(model(video, ids, ids > 0), model.scale)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def compared() -> Compared:
    torch.manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(3, 4, 8), dim=2)
    masks = torch.randn(3, 10, 4).softmax(1)
    texts = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    return Compared(*match(texts, vectors), vectors, masks)


def test_the_method_adds_what_it_says():
    found = compared()
    nce = contrast(found.similarity, 20.0)
    spread = {"vectors": 8**0.5 * found.vectors, "masks": 10 * found.masks.transpose(1, 2)}
    for on, values in spread.items():
        loss = new_method("tmvm", variance=2.0, gamma=3.0, variance_on=on).retrieval_loss(found, 20.0)
        torch.testing.assert_close(loss, nce + 2 * prototype_variance(values, 3.0))
    assert new_method("tmvm", variance=0.0).retrieval_loss(found, 20.0) == nce
    halved = new_method("tmvm", variance=0.0, reduction="mean").retrieval_loss(found, 20.0)
    torch.testing.assert_close(halved, nce / 2)
    single = found._replace(vectors=found.vectors[:, :1])
    assert new_method("tmvm").retrieval_loss(single, 20.0) == nce


def test_parts_of_a_network_stay_or_learn_slowly():
    model = zoo.create_model("tmvm_tiny")
    groups = new_method("tmvm", freeze=("text_model.",), slow=("video_model.",), slow_rate=0.1).groups(model)
    slow, fast = groups
    assert (slow["lr_scale"], fast["lr_scale"]) == (0.1, 1.0)
    assert sum(p.numel() for p in slow["params"]) == sum(p.numel() for p in model.video_model.parameters())
    assert not any(p.requires_grad for p in model.text_model.parameters())
    moving = {id(p) for group in groups for p in group["params"]}
    assert moving == {id(p) for p in model.parameters() if p.requires_grad}


def test_recipes_of_published_sets_name_their_protocol():
    for name in caption_sets():
        wanted = load_recipe(f"tmvm_{name}")
        assert (wanted.data.name, wanted.data.eval_split) == (name, "test")
        assert ":" in protocol(name, "test")


def test_what_cannot_be_trained_is_refused(films, tmp_path):
    with pytest.raises(UsageError, match="classify"):
        course(films, 'model="reste_resnet20_cifar"')
    with pytest.raises(UsageError, match="fewer than a batch"):
        course(films, "schedule.batch_size=50")
    with pytest.raises(InputError, match="neither"):
        course(films, 'data.name="nowhere"')
    with pytest.raises(UsageError, match="no part"):
        course(films, 'data.name="zooclips"', 'data.split="dev"')


def test_held_out_clips_are_not_learnt(films):
    held = course(films, "data.held_out=4")
    assert held.steps == 1
    assert held.main == "held_out_t2v_r5"
    rows = set(held.exams["held_out"].rows)
    assert len(rows) == 4
    assert not rows & set(np.asarray(held.feed._loader.dataset.rows).tolist())
