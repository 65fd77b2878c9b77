"""SGIEL's training: what a step holds, how the teacher follows, what a run keeps, what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import zoo
from zoo.data.crops import open_crops
from zoo.data.people_sets import write_people
from zoo.errors import InputError, UsageError
from zoo.losses.sgiel import mutual, orthogonality
from zoo.models.sgiel import SGIEL
from zoo.registry.card import Input
from zoo.train.loop import train
from zoo.train.methods import new_method
from zoo.train.methods.sgiel import Method, Pair
from zoo.train.pairs import ERASED, KEEP, MIX, ToLearn, changed, steps_of
from zoo.train.recipe import load_recipe

INPUT = Input(size=(3, 32, 16), crop_pct=1.0, crop_mode="squash")
TINY = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    out = tmp_path_factory.mktemp("people")
    write_people(out, "tiny")
    return out


def recipe(*overrides):
    return load_recipe(
        "sgiel_pico_people",
        (
            "data.split=train", "schedule.epochs=1", "schedule.warmup=0", "schedule.batch_size=16",
            "method_args.identities=4", "method_args.views=2", "model_args.widths=[8,8,8,8]",
            "model_args.depths=[1,1,1,1]", "schedule.evaluate_every=1", *overrides,
        ),
    )  # fmt: skip


def test_a_step_has_the_same_identities_in_both_modalities(people):
    crops = open_crops("sysu-mm01", "train", people)
    learnt = ToLearn(crops, 4, 2, INPUT, seed=3)
    assert learnt.names == list(range(1, 13))
    assert steps_of(crops, 8) == 96 // 8 + 1
    one, two = learnt[2, 5].whole, learnt[2, 5].whole
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.photographs, learnt[2, 6].whole.photographs)
    assert one.photographs.shape == one.shapes.shape == (2, 8, 32, 16, 3)
    labels = one.labels.view(4, 2)
    assert (labels[:, :1] == labels).all()
    assert len(set(labels[:, 0].tolist())) == 4
    grey = one.photographs[1].float()
    assert (grey.amax(3) - grey.amin(3)).max() <= 2  # infrared, as JPEG keeps it
    halves = learnt[2, 5].parts(2)
    assert torch.equal(torch.cat([half.photographs for half in halves], 1), one.photographs)


def test_processes_share_the_identities_of_a_step(people):
    crops = open_crops("sysu-mm01", "train", people)
    whole = ToLearn(crops, 4, 2, INPUT, seed=3)[0, 0].whole
    shares = [ToLearn(crops, 4, 2, INPUT, seed=3, rank=rank, world=2)[0, 0].whole for rank in (0, 1)]
    both = torch.cat([share.photographs.view(2, 2, 2, 32, 16, 3) for share in shares], 1)[:, [0, 2, 1, 3]]
    assert torch.equal(both.reshape(whole.photographs.shape), whole.photographs)


def test_a_broken_picture_is_stood_in_for_by_another_of_the_identity(people, tmp_path):
    crops = open_crops("sysu-mm01", "train", people)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    one = crops.of([1, 2])
    at = int(np.flatnonzero(~one.infrared)[0])
    from dataclasses import replace

    hurt = replace(one, photographs=tuple(broken if i == at else path for i, path in enumerate(one.photographs)))
    lessons = [ToLearn(hurt, 2, 4, INPUT, seed=0)[0, step] for step in range(4)]
    assert any("broken.jpg" in line for lesson in lessons for line in lesson.bad)
    assert all(lesson.whole.photographs.float().std() > 0 for lesson in lessons)
    none = replace(one, photographs=tuple(broken for _ in one.photographs))
    with pytest.raises(InputError, match=r"broken\.jpg"):
        ToLearn(none, 2, 1, INPUT, seed=0)[0, 0]


def test_rectangles_are_filled_and_channels_exchanged():
    x = torch.randn(4, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    areas = torch.tensor([[0, 0, 0, 0], [1, 0, 3, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    y = changed(x, areas, torch.tensor([KEEP, KEEP, 2, MIX]))
    assert torch.equal(y[0], before[0])
    torch.testing.assert_close(y[1, :, 1, 0], torch.tensor(ERASED))
    assert torch.equal(y[1, :, 3:], before[1, :, 3:])
    assert all(torch.equal(y[2, channel], before[2, 2]) for channel in range(3))
    torch.testing.assert_close(y[3, 0], 0.2989 * before[3, 0] + 0.587 * before[3, 1] + 0.114 * before[3, 2])


def test_the_teacher_follows_and_its_heads_follow_twice_as_fast():
    pair = Pair(SGIEL("basic", (1, 1, 1, 1), (8, 8, 8, 8), 3, small=True))
    with torch.no_grad():
        for value in pair.student.parameters():
            value.fill_(1.0)
        for value in pair.teacher.parameters():
            value.fill_(0.0)
    statistics = pair.teacher.neck["visible"].running_mean.clone()
    pair.follow(0.1)
    for name, value in pair.teacher.named_parameters():
        quick = name.startswith(("classifier", "neck", "projections"))
        assert value.unique().tolist() == pytest.approx([0.2 if quick else 0.1]), name
    assert torch.equal(pair.teacher.neck["visible"].running_mean, statistics)


@pytest.mark.parametrize("shape", [True, False])
def test_a_step_with_cutmix_is_spelt_out(shape):
    """Rectangles, order and share as drawn; two labels a row; neither triplet nor erased nor consistency losses."""
    torch.manual_seed(0)
    pair = Pair(SGIEL("basic", (1, 1, 1, 1), (8, 8, 8, 8), 3, small=True)).train()
    batch = tuple(torch.randn(4, 3, 32, 16) for _ in range(4 if shape else 2))
    labels = torch.tensor([0, 0, 2, 2])
    twin = copy.deepcopy(pair)
    torch.manual_seed(5)
    torch.rand(())  # whether
    share, down, across = float(torch.rand(())), int(torch.randint(32, ())), int(torch.randint(16, ()))
    order = torch.randperm(4)
    side = (1 - share) ** 0.5
    half_height, half_width = int(32 * side) // 2, int(16 * side) // 2
    inside = torch.zeros(32, 16, dtype=torch.bool)
    for y in range(max(0, down - half_height), min(32, down + half_height)):
        for x in range(max(0, across - half_width), min(16, across + half_width)):
            inside[y, x] = True
    left = 1 - float(inside.float().mean())
    assert 0.1 < left < 0.9, "a rectangle worth the name"

    def mixed(one, other):
        return torch.where(inside, other[order], one)

    def halves(logits):
        both, others = labels.repeat(2), labels[order].repeat(2)
        return left * F.cross_entropy(logits, both) + (1 - left) * F.cross_entropy(logits, others)

    photographs, shapes, _ = twin(*(mixed(batch[i], batch[i ^ 1]) for i in range(len(batch))))
    expected = halves(photographs.logits) + mutual(photographs.logits)
    if shape:
        expected = expected + halves(shapes.logits) + orthogonality(twin.student.projections["photograph"])
    torch.manual_seed(5)
    method = Method(cutmix=1.0, shape=shape)
    method.start_epoch(pair, 0, 1)
    torch.testing.assert_close(method.lesson(pair, batch, labels), expected)


def test_windows_and_ramp_follow_the_epochs():
    method = Method(ramp=0.5)
    pair = nn.Module()
    seen = []
    for epoch in (0, 19, 20, 84, 85, 119):
        method.start_epoch(pair, epoch, 120)
        seen.append((method._alpha, method._ramped))
    assert [alpha for alpha, _ in seen] == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    assert [ramp for _, ramp in seen] == pytest.approx([0, 19 / 60, 20 / 60, 1, 1, 1])


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_short_training_learns_and_is_ready_for_use(people, tmp_path):
    file = train(recipe("data.eval_split=val", "schedule.epochs=4"), tmp_path, data=people, device="cpu", workers=0)
    logged = lines(tmp_path)
    assert logged[-1]["shape"] < logged[0]["shape"]
    assert logged[-1]["identity"] < logged[0]["identity"]
    assert {"val_teacher_mAP", "val_student_mAP", "val_teacher_rank1"} <= logged[0].keys()
    model = zoo.create_model("sgiel_pico", checkpoint_path=file)
    assert model.num_classes == 12
    state, run = load_file(file), load_file(tmp_path / "last.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float16, torch.float32, torch.int64}
    assert all(torch.equal(value, run[f"model.teacher.{key}"].to(value.dtype)) for key, value in state.items())


def test_the_other_losses_train_as_well(people, tmp_path):
    """CutMix, the weighted triplet, gradient accumulation, RegDB's way of holding out, and no shape maps at all."""
    full = recipe("method_args.cutmix=1.0", "method_args.triplet=weighted", "schedule.accumulate=2", "data.held_out=4")
    train(full, tmp_path / "full", data=people, device="cpu", workers=0)
    assert "held_out_teacher_mAP" in lines(tmp_path / "full")[-1]
    plain = recipe("method_args.shape=false", "method_args.keep=student")
    train(plain, tmp_path / "plain", data=people, device="cpu", workers=0)
    logged = lines(tmp_path / "plain")[-1]
    assert "consistency" not in logged
    assert np.isfinite(logged["loss"])


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(people, tmp_path):
    """In the middle of an epoch: the teacher and its statistics are part of the state."""
    whole = recipe("schedule.epochs=2", "schedule.save_every=3")
    train(whole, tmp_path / "whole", data=people, device="cpu", workers=0)
    stops = iter([False] * 5 + [True])

    class Stopped(Exception):
        pass

    import zoo.train.pairs as pairs

    original = pairs.ToLearn.__getitem__

    def failing(self, at):
        if next(stops, False):
            raise Stopped
        return original(self, at)

    pairs.ToLearn.__getitem__ = failing
    try:
        with pytest.raises(Stopped):
            train(whole, tmp_path / "cut", data=people, device="cpu", workers=0)
    finally:
        pairs.ToLearn.__getitem__ = original
    train(whole, tmp_path / "cut", data=people, device="cpu", workers=0)
    one, two = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (("schedule.batch_size=20",), UsageError, "are 16"),
        (("schedule.batch_size=52", "method_args.identities=13"), InputError, "12 identities"),
        (("data.name=market",), UsageError, "no set of crops"),
        (("data.held_out=12",), UsageError, "cannot be held out"),
        (("method_args.windows=[[1, 10.0]]",), UsageError, "windows begin with epoch 0"),
        (("method_args.keep=both",), UsageError, "student or teacher"),
        (("method_args.backbone=resnet51",), UsageError, "no weights of 'resnet51'"),
    ],
)
def test_what_cannot_be_trained(people, tmp_path, overrides, error, says):
    with pytest.raises(error, match=says):
        train(recipe(*overrides), tmp_path, data=people, device="cpu", workers=0)


def test_no_list_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="SYSU-MM01"):
        train(recipe(), tmp_path / "run", data=tmp_path, device="cpu", workers=0)


def test_arguments_that_are_none_are_named():
    with pytest.raises(UsageError, match="method_args of sgiel"):
        new_method("sgiel", identity=3)
