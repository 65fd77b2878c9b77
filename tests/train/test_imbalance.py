"""Two stages for rare classes: what a batch holds, what is frozen, what a study writes, and that it goes on."""

import json
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.train.conftest import write_classes
from zoo.cli.app import commands
from zoo.data.balance import class_counts
from zoo.errors import InputError, UsageError
from zoo.hub.checkpoint import read_contents
from zoo.train.conduct import conduct
from zoo.train.course import Place
from zoo.train.imbalance import ImbalanceCourse, divide
from zoo.train.methods import new_method
from zoo.train.methods.metric_imbalance import LOSSES, Method, stages_of
from zoo.train.rebalance import SECOND_STAGES, Head, Known, Retraining, second_stage
from zoo.train.recipe import load_recipe
from zoo.train.representation import Representation
from zoo.train.study import table

pytest.importorskip("pytorch_metric_learning")

ROWS = ("ce", "ce+crt", "ce+tau", "ldam", "ce+triplet+crt")
CPU = Place(None, torch.device("cpu"), workers=0)


def recipe_of(folder, *more, rows=ROWS):
    return load_recipe(
        "metric_imbalance",
        (
            f"data={folder}",
            "model=timm:test_efficientnet",
            "init=",
            "precision=no",
            "data.size=32",
            "schedule.epochs=2",
            "schedule.batch_size=16",
            "schedule.evaluate_every=1",
            "optimizer.lr=0.02",
            "method_args.runs=1",
            f"method_args.rows={json.dumps(rows)}",
            *more,
        ),
    )


def frozen(folder, weights, *more, **kwargs):
    return recipe_of(folder, f"init={weights}", "method_args.frozen=blocks.2", *more, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, uneven, first_weights):
    out, said = tmp_path_factory.mktemp("study") / "run", []
    file = conduct(frozen(uneven, first_weights), out, device="cpu", workers=0, say=said.append)
    return out, file, said


def test_says_what_the_classes_are_before_anything_else(finished):
    _, _, said = finished
    assert said[0] == "4 classes, 48 pictures, imbalance ratio 30.0: common 30, fair 12, rare 5, single 1"
    assert "to learn from" in said[1]
    assert said[2].startswith("a single picture to learn from: single; the metric loss needs two")


def test_every_row_is_in_the_table_and_every_first_stage_was_trained_once(finished):
    out, _, said = finished
    done = json.loads((out / "rows.json").read_text())
    assert tuple(done) == tuple(
        sorted(ROWS, key=lambda row: ("ce", "ldam", "ce+triplet").index(row.removesuffix("+crt").removesuffix("+tau")))
    )
    assert [line.split(" | ")[0].strip("| ") for line in (out / "table.md").read_text().splitlines()[2:]] == list(ROWS)
    assert sorted(path.name for path in (out / "stage1").iterdir()) == ["ce", "ce_triplet", "ldam"]
    assert all(0 <= done[row]["0"]["mcr"] <= 1 for row in ROWS)
    assert any("ce+triplet+crt: mean class recall" in line for line in said)


def test_model_is_a_plain_classifier_with_the_last_rows_head(finished):
    out, file, _ = finished
    facts = read_contents(file).facts
    assert facts["architecture"] == "test_efficientnet"
    assert facts["labels"] == ["common", "fair", "rare", "single"]
    assert (facts["row"], facts["stage"]) == ("ce+triplet+crt", 2)
    assert sum(facts["class_counts"]) == 35  # a fifth is tested on, a tenth of the rest chosen on
    model = timm.create_model("test_efficientnet", num_classes=4)
    model.load_state_dict(load_file(file))
    first = load_file(out / "stage1.safetensors")
    changed = [key for key, value in load_file(file).items() if not torch.equal(value, first[key])]
    assert changed == ["classifier.bias", "classifier.weight"] or changed == ["classifier.weight", "classifier.bias"]


def test_what_is_frozen_did_not_move(finished, first_weights):
    _, file, _ = finished
    before, after = load_file(first_weights), load_file(file)
    still = [key for key in after if key.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1"))]
    assert len(still) > 10
    assert all(torch.equal(before[key], after[key]) for key in still)
    assert not torch.equal(before["conv_head.weight"], after["conv_head.weight"])


def test_stopped_between_rows_it_goes_on_and_ends_with_the_same_bits(finished, tmp_path, uneven, first_weights):
    out, file, _ = finished

    def stop(line):
        if line.startswith("ldam"):
            raise KeyboardInterrupt

    recipe = frozen(uneven, first_weights)
    with pytest.raises(KeyboardInterrupt):
        conduct(recipe, tmp_path, device="cpu", workers=0, say=stop)
    kept = (tmp_path / "stage1" / "ce" / "0" / "model.safetensors").stat().st_mtime_ns
    again = conduct(recipe, tmp_path, device="cpu", workers=0)
    assert (tmp_path / "stage1" / "ce" / "0" / "model.safetensors").stat().st_mtime_ns == kept
    ours, theirs = load_file(again), load_file(file)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (tmp_path / "table.md").read_text() == (out / "table.md").read_text()


def test_command_line_takes_a_bare_folder_and_prints_the_table(tmp_path, uneven, first_weights):
    args = ("train", "metric_imbalance", f"data={uneven}", "model=timm:test_efficientnet", f"init={first_weights}")
    small = ("data.size=32", "schedule.epochs=1", "schedule.batch_size=16", "precision=no", "method_args.runs=1")
    rows = ('method_args.rows=["focal", "ce+centre_triplet+ncm"]', "method_args.frozen=blocks.2", "--device", "cpu")
    result = CliRunner().invoke(commands(), [*args, *small, *rows, "--out", str(tmp_path / "run"), "--workers", "0"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip().endswith("model.safetensors")
    assert result.stderr.index("imbalance ratio 30.0") < result.stderr.index("epoch 1/1")
    assert "| ce+centre_triplet+ncm |" in result.stderr


@pytest.mark.parametrize("criterion", LOSSES)
def test_all_of_the_network_learns_where_nothing_is_frozen(criterion, uneven):
    recipe = recipe_of(uneven, f"method_args.criterion={criterion}")
    method = new_method(recipe.method, **recipe.method_args)
    course = ImbalanceCourse(recipe, method, CPU)
    torch.manual_seed(0)
    model = method.prepare(timm.create_model("test_efficientnet", num_classes=4))
    (part,) = next(course.batches(0, 0)).parts(1)
    loss = course.loss(model.train(), part)
    loss.backward()
    assert loss.isfinite()
    assert model.network.conv_stem.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("batch", ["balanced", "shared"])
def test_metric_loss_compares_the_batch_that_is_asked_for(batch, uneven):
    recipe = recipe_of(uneven, "method_args.metric=triplet", f"method_args.metric_batch={batch}", "method_args.each=3")
    course = ImbalanceCourse(recipe, new_method(recipe.method, **recipe.method_args), CPU)
    lesson = next(course.batches(0, 0))
    met, labels, compared, theirs, opens = lesson.parts(1)[0]
    assert (len(met), len(labels), opens) == (16, 16, True)
    if batch == "shared":
        assert len(compared) == 0
    else:
        assert class_counts(theirs, 4).tolist() == [3, 3, 3, 0]  # the class of a single picture has no pair
    plain = recipe_of(uneven)
    other = ImbalanceCourse(plain, new_method(plain.method, **plain.method_args), CPU)
    assert torch.equal(next(other.batches(0, 0)).x, met)  # the head meets the same pictures with and without the metric


def test_norms_meet_both_batches_at_once(uneven):
    """Else what they keep for answering is of neither: half of the one batch's mean, half of the other's."""
    recipe = recipe_of(uneven, "method_args.metric=triplet")
    method = new_method(recipe.method, **recipe.method_args)
    course = ImbalanceCourse(recipe, method, CPU)
    model = method.prepare(timm.create_model("test_efficientnet", num_classes=4)).train()
    (part,) = next(course.batches(0, 0)).parts(1)
    course.loss(model, part)
    assert model.network.bn1.num_batches_tracked == 1


@pytest.mark.parametrize(("sampling", "most"), [("natural", 16), ("square_root", 14), ("balanced", 8)])
def test_sampling_decides_how_often_the_head_meets_a_class(sampling, most, uneven):
    recipe = recipe_of(uneven, f"method_args.sampling={sampling}")
    course = ImbalanceCourse(recipe, new_method(recipe.method, **recipe.method_args), CPU)
    seen = torch.cat([course.learnt.rows(epoch, 0) for epoch in range(40)])
    counts = class_counts(course.learnt.data.labels[seen], 4) / 40
    natural = 16 * course.counts / course.counts.sum()
    expected = {"natural": natural, "balanced": torch.full((4,), 4.0)}.get(sampling)
    if expected is not None:
        assert (counts - expected).abs().max() < 1  # 640 draws: three deviations of the mean of 40
    assert counts[0] <= most


def test_parts_of_a_division_are_disjoint_and_hold_every_class(uneven):
    recipe = recipe_of(uneven)
    divided = divide(recipe, new_method(recipe.method, **recipe.method_args), None)
    rows = torch.cat([divided.learnt, divided.held_out, divided.tested])
    assert rows.sort().values.tolist() == list(range(48))
    assert (divided.counts > 0).all()
    tests = [divide(recipe, Method(**{**recipe.method_args, "fold": fold}), None).tested for fold in range(5)]
    assert torch.cat(tests).sort().values.tolist() == list(range(47))  # all but a class's only picture


@pytest.mark.parametrize(("name", "frozen_at"), [("test_efficientnet", "blocks.2"), ("test_resnet", "layer3")])
def test_frozen_part_and_the_rest_are_the_network(name, frozen_at):
    network = timm.create_model(name, num_classes=3).eval()
    whole = Representation(network, frozen_at)
    x = torch.rand(2, 3, 48, 40)
    features, logits = whole(whole.trunk(x))
    torch.testing.assert_close(logits, network(x))
    torch.testing.assert_close(features, network.forward_head(network.forward_features(x), pre_logits=True))
    whole.check(x)
    assert set(whole.state_dict()) == {f"network.{key}" for key in network.state_dict()}
    assert not next(network.parameters()).requires_grad
    assert not next(whole.train().network.children()).training


def test_networks_that_cannot_be_cut_say_so():
    whole = Representation(timm.create_model("test_vit", num_classes=3).eval(), "blocks.1")
    with pytest.raises(UsageError, match="does not run in a chain"):
        whole.check(torch.rand(1, 3, 160, 160))
    with pytest.raises(UsageError, match="no module 'layer9'"):
        Representation(timm.create_model("test_resnet", num_classes=3), "layer9")
    with pytest.raises(UsageError, match="does not end in one linear layer"):
        Representation(timm.create_model("test_resnet", num_classes=0))


def test_cosine_head_is_exported_as_a_plain_one_with_the_same_answers():
    method = Method(criterion="ldam")
    whole = method.prepare(timm.create_model("test_resnet", num_classes=3)).eval()
    x = torch.rand(6, 3, 32, 32)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    plain.load_state_dict(method.export(whole)[0])
    features, logits = whole(x)
    torch.testing.assert_close(plain(x), logits * features.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)


def clouds(counts, seed=0):
    """Two views of clouds around the corners of a simplex."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = 2 * F.one_hot(labels, 6).float()
    return Known(centres + 0.7 * torch.randn(2, len(labels), 6, generator=rng), labels, len(counts))


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_second_stages_find_more_of_the_rare_class(name):
    """The first head was biased to the common class; every second stage takes the bias back, and is repeatable."""
    known, held_out, test = clouds((200, 30, 8)), clouds((20, 20, 20), 1), clouds((100, 100, 100), 2)
    first = Head(2 * torch.eye(3, 6) * torch.tensor([1.5, 1.0, 0.7])[:, None], torch.tensor([3.0, 0.0, -1.5]))
    head = second_stage(name, first, known, held_out, Retraining(epochs=10))

    def recall(one, label):
        return (one(test.features[0]).argmax(1) == label)[test.labels == label].float().mean().item()

    assert recall(head, 2) > recall(first, 2) + 0.1
    assert torch.equal(head.weight, second_stage(name, first, known, held_out, Retraining(epochs=10)).weight)


def test_tau_that_is_chosen_is_noted_and_nothing_of_the_test_is_needed():
    known, held_out = clouds((200, 30, 8)), clouds((20, 20, 20), 1)
    first = Head(torch.eye(3, 6) * torch.tensor([3.0, 1.0, 0.3])[:, None], torch.zeros(3))
    head = second_stage("tau", first, known, held_out, Retraining())
    assert head.note.startswith("tau ")
    assert float(head.note.removeprefix("tau ")) > 0
    none = Known(held_out.features[:, :0], held_out.labels[:0], 3)
    assert second_stage("tau", first, known, none, Retraining()).note == "tau 1"


def test_rows_are_read_as_stages():
    assert stages_of("ce") == ("ce", "", "")
    assert stages_of("ce+crt") == ("ce", "", "crt")
    assert stages_of("focal+supcon") == ("focal", "supcon", "")
    assert stages_of("ce+proxy_anchor+tau") == ("ce", "proxy_anchor", "tau")
    for row in ("", "crt", "ce+crt+triplet", "ce+nothing", "ce+triplet+crt+tau"):
        with pytest.raises(ValueError, match="is no stage"):
            stages_of(row)


def test_table_leaves_out_what_some_lack():
    run = dict.fromkeys(("macro_f1", "rare_recall", "g_mean", "accuracy", "auroc", "many", "medium"), 0.5)
    text = table({"ce": [{**run, "mcr": 0.25, "few": None}, {**run, "mcr": 0.75, "few": None}]})
    assert "| ce | 50.0 ± 35.4 |" in text
    assert "few" not in text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method_args.rows=[]", "rows is empty"),
        ('method_args.rows=["ce+magic"]', "'magic' is no stage"),
        ("method_args.sampling=often", "sampling is 'often'"),
        ("method_args.folds=1", "at least"),
        ("method_args.validation=1.0", "lie in"),
    ],
)
def test_arguments_that_cannot_be_meant(override, said, uneven, tmp_path):
    with pytest.raises(UsageError, match=said):
        conduct(recipe_of(uneven, override), tmp_path, device="cpu")


def test_data_that_cannot_be_used(tmp_path, uneven, first_weights):
    single = write_classes(tmp_path / "single", {"common": 20})
    with pytest.raises(UsageError, match="a single class, common"):
        conduct(recipe_of(single), tmp_path / "a", device="cpu")
    empty = write_classes(tmp_path / "empty", {"common": 20, "rare": 3})
    (empty / "void").mkdir()
    with pytest.raises(InputError, match=r"class void of .* has no pictures"):
        conduct(recipe_of(empty), tmp_path / "b", device="cpu")
    lonely = write_classes(tmp_path / "lonely", {"common": 30, "rare": 1, "single": 1})
    with pytest.raises(UsageError, match="needs two classes with two pictures each"):
        conduct(recipe_of(lonely, rows=("ce+triplet",)), tmp_path / "c", device="cpu", workers=0)
    with pytest.raises(UsageError, match="would be random"):
        conduct(recipe_of(uneven, "method_args.frozen=blocks.2"), tmp_path / "d", device="cpu")
    recipe = recipe_of(uneven, "method_args.metric=proxy_anchor")
    with pytest.raises(UsageError, match="not shared among processes"):
        ImbalanceCourse(recipe, new_method(recipe.method, **recipe.method_args), replace(CPU, world=2))
    broken = write_classes(tmp_path / "broken", {"common": 20, "rare": 5})
    (broken / "rare" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1\.png"):
        conduct(frozen(broken, first_weights), tmp_path / "e", device="cpu", workers=0)
