"""ACL against the authors' code: every forward mode, selection, both losses, two steps of both stages."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo
from tests.goldens import fill, golden_cases, normal
from zoo.convert import convert, rename
from zoo.models import acl
from zoo.models.acl import ACL, choose, heads_loss, newest_loss

NETWORKS = [*golden_cases("acl_resnet18_*"), *golden_cases("acl_mobilenet_v2_*")]
STEPPED = [case for case in NETWORKS if "stage1" in case.facts["results"]]
SELECTIONS = golden_cases("acl_selection*")


@cache
def authors_state(case):
    return {key: fill(key, tuple(shape)) for key, shape in case.facts["state_dict"].items()}


def network(case):
    """Our network with the authors' state, and their auxiliary head."""
    config, state = case.facts["config"], authors_state(case)
    model = getattr(acl, f"acl_{config['backbone']}")(task_sizes=config["task_sizes"])
    ours = rename(state, model.authors_keys)
    model.load_state_dict(ours)
    assert ACL.inferred_args(ours) == {"task_sizes": config["task_sizes"]}
    auxiliary = nn.Linear(*reversed(state["aux_fc.weight"].shape))
    auxiliary.load_state_dict({key: state[f"aux_fc.{key}"] for key in ("weight", "bias")})
    return model, auxiliary


def tiny(task_sizes=(2, 1), seed=0):
    """Two stages of 4 and 6 channels on pictures of 12 pixels or more."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    backbone.insert(1, nn.Conv2d(4, 4, 1))
    model = ACL(backbone, ("1", "2"), (4, 4), 6, task_sizes)
    for adapter in (a for adapters in model.adapters for a in adapters):
        nn.init.normal_(adapter.alpha)  # tasks apart from each other
    return model


@pytest.mark.parametrize("case", NETWORKS, ids=str)
@torch.inference_mode()
def test_every_mode_matches_the_authors(case):
    (model, auxiliary), x, close = network(case), case.input(), case.facts["tolerance"]
    features = model.features(x)
    torch.testing.assert_close(features.flatten(1), case.tensor("test_features"), **close)
    torch.testing.assert_close(model(x), case.tensor("test_logits"), **close)
    torch.testing.assert_close(model.newest_features(x), case.tensor("last_adapter_features"), **close)
    torch.testing.assert_close(auxiliary(model.newest_features(x)), case.tensor("aux_logits_eval"), **close)
    torch.testing.assert_close(model.plain_features(x), case.tensor("skip_features"), **close)
    choice = choose(model(x), model.task_sizes)
    assert choice.classes.tolist() == case.arrays["pred"].tolist()
    torch.testing.assert_close(choice.scores, case.tensor("score"), **close)
    assert right_tasks(choice, case.tensor("targets"), model.task_sizes) == case.facts["results"]["task_id_correct"]


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_parameters_are_the_papers(case):
    (model, auxiliary), counted = network(case), case.facts["params"]
    assert count(model.backbone) == counted["backbone"]
    assert [count(adapters) for adapters in model.adapters] == counted["adapters_per_task"]
    assert [count(head) for head in model.heads] == counted["heads"]
    assert count(model) + count(auxiliary) == counted["total"]


@pytest.mark.parametrize("case", STEPPED, ids=str)
def test_two_steps_of_stage_1_match_the_authors(case):
    (model, auxiliary), stage = network(case), case.facts["results"]["stage1"]
    newest, first = model.adapters[-1], sum(model.task_sizes[:-1])
    frozen = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    parameters = [*newest.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    losses = []
    for x, y in zip(case.input().split(stage["batches"]), case.tensor("targets").split(stage["batches"]), strict=True):
        loss = newest_loss(auxiliary(model.newest_features(x)), y, first)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses) / 2 == pytest.approx(stage["mean_loss"], rel=1e-4)
    last = len(model.adapters) - 1
    ours = rename(authors_named(stage["after"]), [*model.authors_keys[:-1], (r"^aux_fc", "auxiliary")])
    state = model.state_dict() | {f"auxiliary.{key}": value for key, value in auxiliary.state_dict().items()}
    assert {key for key in ours if key.startswith("adapters")} == {
        key for key in state if key.startswith(f"adapters.{last}")
    }
    assert_norms(state, ours)
    assert all(torch.equal(value, frozen[key]) for key, value in model.backbone.state_dict().items())


@pytest.mark.parametrize("case", STEPPED, ids=str)
def test_two_steps_of_stage_2_match_the_authors(case):
    (model, _), stage = network(case), case.facts["results"]["stage2"]
    optimizer = torch.optim.Adam(model.heads.parameters(), lr=1e-3)
    with torch.no_grad():
        features = model.features(case.input())
    losses = []
    for f, y in zip(features.split(4), case.tensor("targets").split(4), strict=True):
        loss = heads_loss(model.heads_of(f), y, model.task_sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses) / 2 == pytest.approx(stage["mean_loss"], rel=1e-4)
    assert_norms(model.heads.state_dict(), authors_named(stage["after"]))


@pytest.mark.parametrize("case", SELECTIONS, ids=str)
def test_selection_and_losses_match_the_authors(case):
    sizes, facts, close = case.facts["config"]["task_sizes"], case.facts, {"rtol": 1e-5, "atol": 1e-5}
    logits, targets = case.tensor("logits").requires_grad_(), case.tensor("targets")
    choice = choose(logits, sizes)
    assert choice.classes.tolist() == case.arrays["pred"].tolist()
    torch.testing.assert_close(choice.scores, case.tensor("score"), **close)
    assert right_tasks(choice, targets, sizes) == facts["task_id_correct"]
    loss = heads_loss(logits, targets, sizes)
    loss.backward()
    assert loss.item() == pytest.approx(facts["stage2_loss"], rel=1e-5)
    torch.testing.assert_close(logits.grad, case.tensor("stage2_grad"), **close)
    others = targets >= sizes[0]
    without = heads_loss(logits[others], targets[others], sizes)
    assert without.item() == pytest.approx(facts["stage2_loss_without_samples_of_task0"], rel=1e-5)
    newest = case.tensor("stage1_logits").requires_grad_()
    loss = newest_loss(newest, targets, sum(sizes[:-1]))
    loss.backward()
    assert loss.item() == pytest.approx(facts["stage1_loss"], rel=1e-5)
    torch.testing.assert_close(newest.grad, case.tensor("stage1_grad"), **close)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 1000))
def test_choosing_against_the_rule_written_out(sizes, seed):
    logits = 3 * normal(seed, (5, sum(sizes) + len(sizes)))
    choice = choose(logits, sizes)
    for row, (answer, task, score, own, chances) in enumerate(zip(*choice, strict=True)):
        shares, place = [], 0
        for size in sizes:
            shares.append(logits[row, place : place + size + 1].softmax(0))
            place += size + 1
        believed = min(range(len(sizes)), key=lambda t: float(shares[t][-1]))
        assert task == believed
        assert answer == sum(sizes[:believed]) + int(shares[believed][:-1].argmax())
        assert float(score) == pytest.approx(1 - float(shares[believed][-1]), abs=1e-6)
        expected = torch.zeros(sum(sizes))
        expected[sum(sizes[:believed]) : sum(sizes[: believed + 1])] = shares[believed][:-1]
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
        weighted = torch.cat([(1 - s[-1]) * s[:-1] / s[:-1].sum() for s in shares])
        torch.testing.assert_close(chances, weighted / weighted.sum(), rtol=1e-5, atol=1e-6)


def test_the_first_of_equally_sure_heads_is_believed():
    choice = choose(torch.zeros(1, 5), (1, 2))
    assert choice.tasks.tolist() == [1]  # two classes leave others a third of the share, one class leaves it half
    assert choose(torch.zeros(1, 4), (1, 1)).tasks.tolist() == [0]


def test_a_picture_that_every_head_gives_to_others_still_has_an_answer():
    logits = torch.tensor([[0.0, 0.0, 200.0, 0.0, 200.0]])
    choice = choose(logits, (2, 1))
    assert choice.scores.tolist() == [0]
    assert choice.probabilities.sum().item() == pytest.approx(1)


def test_new_adapters_start_as_the_last_ones_and_old_ones_freeze():
    model = tiny()
    model.add_task(3)
    assert model.task_sizes == (2, 1, 3)
    for old, new in zip(model.adapters[1].parameters(), model.adapters[2].parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.requires_grad
        assert not old.requires_grad
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_only_the_newest_adapters_train():
    model = tiny().train()
    assert all(module.training for module in model.adapters[1].modules())
    assert not any(module.training for module in [*model.adapters[0].modules(), *model.backbone.modules()])


@given(st.integers(1, 3), st.integers(12, 20))
@torch.inference_mode()
def test_a_task_answers_as_if_it_were_alone(batch, side):
    model, x = tiny((2, 1, 2)), normal(side, (batch, 3, side, side))
    together = model.features(x)
    for t in range(3):
        alone = tiny((2, 1, 2))
        alone.adapters = nn.ModuleList([alone.adapters[t]])
        torch.testing.assert_close(together[:, t], alone.newest_features(x), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_the_shared_part_can_be_kept():
    model, x = tiny(), normal(1, (3, 3, 16, 16))
    shared = model.before_adapters(x)
    torch.testing.assert_close(model.newest_features_from(shared, x[:1]), model.newest_features(x), rtol=0, atol=1e-6)


def test_a_removed_task_leaves_the_others_answers():
    model, x = tiny(), normal(1, (3, 3, 16, 16))
    before = model(x)
    model.add_task(2)
    model.remove_task()
    assert torch.equal(model(x), before)


def test_logits_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="5 logits, 7 for tasks"):
        choose(torch.zeros(1, 5), (2, 3))


def right_tasks(choice, targets, sizes):
    ends = torch.tensor(sizes).cumsum(0)
    return int((torch.searchsorted(ends, targets, right=True) == choice.tasks).sum())


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def authors_named(after):
    return {key: torch.tensor([value["mean"], value["norm"]]) for key, value in after.items()}


def assert_norms(state, expected):
    for key, (mean, norm) in expected.items():
        value = state[key].detach().double()
        # Adam's first steps are signs of the gradient, so a rounding can move single weights by its rate
        assert float(value.mean()) == pytest.approx(float(mean), rel=1e-4, abs=2e-5), key
        assert float(F.normalize(value.flatten(), dim=0) @ value.flatten()) == pytest.approx(float(norm), rel=1e-4), key


@pytest.mark.parametrize("build", ["acl_resnet18", "acl_mobilenet_v2"])
@torch.inference_mode()
def test_the_copy_for_inference_answers_alike(build):
    torch.manual_seed(0)
    model = getattr(acl, build)(task_sizes=(2, 1, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    for adapters in model.adapters:
        for adapter in adapters:
            nn.init.normal_(adapter.alpha)  # of both signs
    x = normal(0, (2, 3, 96, 96))
    fast = model.optimized(x[:1])
    assert fast.backbone is not model.backbone  # something was folded
    expected = model.features(x)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}  # float32 sums in another order
    torch.testing.assert_close(fast.features(x), expected, **close)
    torch.testing.assert_close(fast(x), model(x), **close)
    assert fast.choose(x).classes.tolist() == model.choose(x).classes.tolist()


@torch.inference_mode()
def test_answers_over_time_are_those_of_the_heads_of_the_time():
    model, x = tiny((2,)), normal(2, (4, 3, 16, 16))
    first = model.choose(x)
    model.keep_heads()
    model.add_task(1)
    nn.init.zeros_(model.heads[0].weight)
    early, now = model.over_time(x)
    assert torch.equal(early.scores, first.scores)
    assert torch.equal(now.scores, model.choose(x).scores)
    model.remove_task()
    assert torch.equal(model.choose(x).scores, first.scores)
    assert tiny((2, 1)).over_time(x)[0] is None  # nothing was kept


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_the_authors_file_of_a_task_is_converted(case, tmp_path):
    config, state = case.facts["config"], authors_state(case)
    torch.save({"state_dict": state, "task_id": 0, "memory_class_means": []}, tmp_path / "task.pkl")
    name, out = f"acl_{config['backbone']}", tmp_path / "ours.safetensors"
    report = convert(name, tmp_path / "task.pkl", out)
    assert report.is_complete
    assert report.builder_args["task_sizes"] == config["task_sizes"]
    assert {key for key, _ in report.dropped} >= {"aux_fc.weight", "aux_fc.bias"}
    model = zoo.create_model(name, checkpoint_path=out)
    with torch.inference_mode():
        torch.testing.assert_close(model(case.input()), case.tensor("test_logits"), **case.facts["tolerance"])
