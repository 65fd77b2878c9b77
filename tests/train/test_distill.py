"""The distilling learner: its loss is made of what it says, it remembers, it goes on, it is read back."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from tests.train.conftest import write_classes
from zoo.cli.app import commands
from zoo.errors import UsageError
from zoo.losses.distillation import (
    distillation_weights,
    integrated_distances,
    level_distances,
    logit_distances,
    new_class_weights,
    uncertainty,
)
from zoo.models.distilled import CifarResNet, Distilled, default_levels
from zoo.registry.card import Input
from zoo.tasks.extractor import Extractor
from zoo.train.learners import NewTask, Settings, learner_names, new_learner
from zoo.train.learners.distill import Learner, Pupil

INPUT = Input(size=(3, 16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), crop_pct=1.0)
COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
LEVELS = {"levels": ("layer1", "layer2", "layer3"), "channels": (16, 32, 64)}


def network(*sizes, seed=0):
    torch.manual_seed(seed)
    return Distilled(CifarResNet(8, num_classes=0), sizes, num_features=64, **LEVELS)


def pictures(labels, seed=0):
    noise = 40 * torch.randn(len(labels), 16, 16, 3, generator=torch.Generator().manual_seed(seed))
    return (COLOURS[labels][:, None, None] + noise).clamp(0, 255).to(torch.uint8)


def task(labels, kept=(), *, state=None, epochs=3, seed=0, report=lambda what, done: None):
    labels, kept = (torch.tensor(values, dtype=torch.int64) for values in (labels, kept))
    settings = Settings(epochs=epochs, batch_size=8, seed=seed)
    count = len(labels.unique())
    device = torch.device("cpu")
    return NewTask(pictures(labels), labels, count, pictures(kept, 9), kept, 4, INPUT, settings, device, state, report)


def test_is_a_method_to_teach_by():
    assert "distill" in learner_names()
    assert new_learner("distill") == Learner()


@pytest.mark.parametrize(
    ("integrate", "unsure"),
    list(itertools.product(("attention", "same_level", "off"), ("both", "new", "old", "learned", "off"))),
)
def test_loss_is_the_sum_of_its_parts(integrate, unsure):
    """Without CutMix, whose draws are its own, the loss of a batch can be put together from outside."""
    old, new = network(2).eval(), network(2, seed=1)
    new.add_task(2)
    pupil = Pupil(Learner(integrate=integrate, unsure=unsure, cutmix=False), new.eval(), old)
    x, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 2, 0])
    (levels, logits), (old_levels, old_logits) = new.observe(x), old.observe(x)
    u, entropy = uncertainty(old_logits), F.cross_entropy(logits, labels, reduction="none")
    distance = 0.3 * logit_distances(old_logits, logits)
    if integrate == "attention":
        distance += integrated_distances(levels, old_levels, pupil.integration(levels, old_levels)).mean(1)
    elif integrate == "same_level":
        distance += level_distances(levels, old_levels).mean(1)
    if unsure in ("both", "new"):
        entropy = new_class_weights(u, labels, 2) * entropy
    if unsure in ("both", "old"):
        distance = distillation_weights(u) * distance
    if unsure == "learned":
        s = pupil.variance(levels[-1].mean((2, 3)))[:, 0].clamp(-1, 1)
        distance = torch.exp(-s) * distance + s
    assert pupil(x, labels).item() == pytest.approx((entropy + distance).mean().item(), rel=1e-5)  # float32


def test_cutmix_alters_old_pictures_alone():
    old, new = network(2).eval(), network(2, seed=1).eval()
    new.add_task(1)
    pupil, x = Pupil(Learner(), new, old), torch.randn(40, 3, 16, 16)
    plain = Pupil(Learner(cutmix=False), new, old)
    plain.load_state_dict(pupil.state_dict())
    only_new = torch.full((40,), 2)
    torch.manual_seed(0)
    assert pupil(x, only_new) == plain(x, only_new)
    only_old = torch.arange(40) % 2
    assert pupil(x, only_old) != plain(x, only_old)


def test_old_classes_are_remembered_where_plain_training_forgets():
    """Colours are easy; trained on two new ones alone, a plain network answers nothing else."""
    first, labels = network(), torch.arange(4).repeat_interleave(20)
    Learner(rate=0.05, cutmix=False).learn(first, task([0, 1] * 16, epochs=4))
    seen = task([0]).prepared(pictures(labels, 5))

    def right(model):
        return (model.eval()(seen).argmax(1) == labels)[:40].float().mean().item()

    assert right(first) > 0.9
    held, forgot = copy.deepcopy(first), copy.deepcopy(first)
    Learner(rate=0.05).learn(held, task([2, 3] * 16, [0, 1] * 4, epochs=4))
    off = Learner(rate=0.05, kd=0.0, integrate="off", unsure="off", cutmix=False, align=False)
    off.learn(forgot, task([2, 3] * 16, epochs=4))
    assert right(held) > right(forgot) + 0.3
    assert held.task_sizes == (2, 2)


def test_interrupted_in_a_task_it_goes_on_with_the_same_bits(tmp_path):
    whole, parts = network(2), network(2)
    Learner(rate=0.05).learn(whole, task([2, 3] * 8, [0, 1] * 2))

    def stop(what, done):
        if "epoch 2" in what:
            raise KeyboardInterrupt

    state = tmp_path / "lesson"
    with pytest.raises(KeyboardInterrupt):
        Learner(rate=0.05).learn(parts, task([2, 3] * 8, [0, 1] * 2, state=state, report=stop))
    parts, seen = network(2), []
    Learner(rate=0.05).learn(
        parts, task([2, 3] * 8, [0, 1] * 2, state=state, report=lambda what, done: seen.append(what))
    )
    assert [what.partition(",")[0] for what in seen] == ["distill: epoch 3/3"]
    assert all(torch.equal(value, parts.state_dict()[key]) for key, value in whole.state_dict().items())


def test_state_of_another_task_is_not_gone_on_from(tmp_path):
    state, seen = tmp_path / "lesson", []
    Learner().learn(network(2), task([2, 3] * 8, [0, 1], state=state))
    again = task([2, 3] * 8, [0, 1], state=state, seed=1, report=lambda what, done: seen.append(what))
    Learner().learn(network(2), again)
    assert len(seen) == 3


def test_old_classes_keep_their_rows_when_the_head_grows_and_new_ones_their_length_after_it():
    model = network(3)
    before = model.head.weight.clone()
    model.add_task(2)
    assert torch.equal(model.head.weight[:3], before)
    with torch.no_grad():
        model.head.weight[3:] *= 7
    factor = model.align()
    lengths = model.head.weight.norm(dim=1)
    assert lengths[3:].mean().item() == pytest.approx(lengths[:3].mean().item(), rel=1e-5)
    assert factor < 1
    assert torch.equal(model.head.weight[:3], before)


def test_answers_name_the_task_and_what_is_not_kept_is_refused():
    model = network(2, 1).eval()
    choice = model.choose(torch.randn(5, 3, 16, 16))
    assert torch.equal(choice.tasks, (choice.classes == 2).long())
    assert torch.equal(choice.probabilities.max(1).values, choice.scores)
    torch.testing.assert_close(choice.probabilities.sum(1), torch.ones(5))
    assert ((choice.own > 0).sum(1) == torch.where(choice.tasks == 0, 2, 1)).all()
    past, now = model.over_time(torch.randn(5, 3, 16, 16))
    assert past is None
    assert len(now.classes) == 5
    with pytest.raises(UsageError, match="cannot be taken away"):
        model.remove_task()


def test_levels_are_found_and_counted():
    extractor = Extractor("mine", CifarResNet(8, num_classes=0), INPUT, None)
    assert default_levels(extractor.network) == LEVELS["levels"]
    found = Learner().arguments(extractor, INPUT)
    assert found == {"levels": ["layer1", "layer2", "layer3"], "channels": [16, 32, 64], "num_features": 64}
    with pytest.raises(UsageError, match="does not say what its stages are"):
        default_levels(torch.nn.Flatten())


def test_taught_from_the_command_line_in_two_rounds(tmp_path, first_weights):
    write_classes(tmp_path / "one", {"common": 12, "fair": 12}, noise=20)
    write_classes(tmp_path / "two", {"rare": 12}, noise=20)
    model = str(tmp_path / "m.zoo")

    def run(*args):
        result = CliRunner().invoke(commands(), [*map(str, args), "--device", "cpu"])
        assert result.exit_code == 0, result.stderr + repr(result.exception)
        return result.stdout

    new = ("--method", "distill", "--extractor", "timm:test_efficientnet", "--checkpoint", first_weights, "--size", 32)
    run("teach", model, "--add", tmp_path / "one", *new, "--epochs", 8)
    told = run("teach", model, "--add", tmp_path / "two", "--epochs", 2)
    assert "task 2" in told
    answered = run("predict", model, tmp_path / "one" / "common" / "0.png")
    assert any(name in answered for name in ("common", "fair", "rare"))
    result = CliRunner().invoke(commands(), ["teach", model, "--undo"])
    assert isinstance(result.exception, UsageError)
    assert "cannot be taken away" in result.exception.message
