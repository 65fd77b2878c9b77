"""Teaching as a user does it: tasks, undo, interruption, files, answers, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from zoo.cli.app import commands
from zoo.errors import InputError, IntegrityError, UnknownName, UsageError, WeightsUnavailable, ZooError
from zoo.hub.fetch import sha256_of
from zoo.publish import _check_file, build_folder
from zoo.registry.names import load_card
from zoo.tasks.extractor import open_extractor
from zoo.tasks.pipeline import pipeline
from zoo.tasks.taught import read_taught
from zoo.tasks.teachable import evaluate_taught
from zoo.train.learners import Settings, adapters
from zoo.train.taskwise import stepped
from zoo.train.teach import Start, prepare, teach

EXTRACTOR = "timm:test_efficientnet"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (120, 120, 120)}


def write(folder, *names, count=8, seed=0):
    """One folder of noisy pictures a class, each class of a colour."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 40, (30, 34, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for a very small EfficientNet."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(
        {key: value.contiguous() for key, value in timm.create_model("test_efficientnet").state_dict().items()}, path
    )
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write(folder / "first", "red", "green")
    write(folder / "second", "blue", seed=1)
    write(folder / "test", "red", "green", "blue", "grey", count=4, seed=2)
    return folder


def start(weights, **changed):
    return Start(**{"extractor": EXTRACTOR, "checkpoint": weights, "size": 64, "memory": 8, **changed})


def taught(path, folder, new=None, *, epochs=3, **options):
    ready = prepare(path, folder, start=new, settings=Settings(epochs=epochs), device="cpu", **options)
    return teach(ready)


@pytest.fixture(scope="module")
def once(tmp_path_factory, weights, sets):
    """A model of one task; for reading only."""
    path = tmp_path_factory.mktemp("once") / "m.zoo"
    taught(path, sets / "first", start(weights), val=sets / "test")
    return path


@pytest.fixture(scope="module")
def twice(tmp_path_factory, once, sets):
    """The same with a second task; for reading only."""
    path = tmp_path_factory.mktemp("twice") / "m.zoo"
    path.write_bytes(once.read_bytes())
    taught(path, sets / "second", val=sets / "test")
    return path


@pytest.fixture
def model(tmp_path, once):
    path = tmp_path / "m.zoo"
    path.write_bytes(once.read_bytes())
    return path


@pytest.fixture
def model_of_two(tmp_path, twice):
    path = tmp_path / "m2.zoo"
    path.write_bytes(twice.read_bytes())
    return path


def run(*args):
    return CliRunner().invoke(commands(), [str(arg) for arg in args])


def refused(*args, kind=UsageError):
    result = run(*args)
    assert isinstance(result.exception, kind), result.output
    return result.exception


def test_a_second_task_changes_nothing_of_the_first(once, twice):
    first, second = read_taught(once), read_taught(twice)
    assert second.facts.classes == ("green", "red", "blue")
    before = first.network.state_dict()
    after = second.network.state_dict()
    frozen = [key for key in before if key.startswith(("backbone.", "adapters."))]
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    kept = {f"past.0.{key.removeprefix('heads.')}": value for key, value in before.items() if key.startswith("heads.")}
    assert all(torch.equal(after[key], value) for key, value in kept.items())


def test_undo_is_exact(once, model_of_two):
    before = read_taught(once)
    assert run("teach", model_of_two, "--undo").exit_code == 0
    after = read_taught(model_of_two)
    assert after.facts == before.facts
    assert after.pictures == before.pictures
    state = after.network.state_dict()
    assert state.keys() == before.network.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in before.network.state_dict().items())


def test_undo_and_teaching_again_gives_the_same_file(twice, model_of_two, sets):
    run("teach", model_of_two, "--undo")
    taught(model_of_two, sets / "second", val=sets / "test")
    assert model_of_two.read_bytes() == twice.read_bytes()


def test_what_is_kept_shrinks_by_rank_and_waits_for_undo(once, twice):
    first, second = read_taught(once), read_taught(twice)
    assert first.facts.memory.counts == (4, 4)
    assert second.facts.memory.counts == (4, 4, 2)  # 8 over three classes are 2 each; the rest is for --undo
    assert [len(rows) for rows in second.memory.rows] == [2, 2, 2]
    assert second.pictures[:8] == first.pictures


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupted_task_goes_on_and_ends_with_the_same_bytes(at, twice, model, sets):
    old = model.read_bytes()

    def stop(what, done):
        if what.startswith(f"adapters: epoch {at}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taught(model, sets / "second", val=sets / "test", report=stop)
    assert model.read_bytes() == old
    epochs = []
    taught(model, sets / "second", val=sets / "test", report=lambda what, done: epochs.append(what))
    assert sum("adapters: epoch" in what for what in epochs) == 3 - at
    assert model.read_bytes() == twice.read_bytes()
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_the_state_of_other_pictures_is_not_gone_on_from(model, sets, tmp_path):
    def stop(what, done):
        if what.startswith("adapters: epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taught(model, sets / "second", report=stop)
    other, said = write(tmp_path / "other", "grey"), []
    taught(model, other, report=lambda what, done: said.append(what))
    assert sum("adapters: epoch" in what for what in said) == 3


@pytest.mark.slow
def test_a_killed_process_leaves_the_old_model_whole(model, twice, sets):
    old = model.read_bytes()
    command = [sys.executable, "-m", "zoo", "teach", model, "--add", sets / "second", "--val", sets / "test"]
    process = subprocess.Popen([*map(str, command), "--epochs", "2000", "--device", "cpu"])
    state = model.with_name(f".{model.name}.lesson")
    limit = time.monotonic() + 300
    while not state.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert model.read_bytes() == old
    taught(model, sets / "second", val=sets / "test")
    assert model.read_bytes() == twice.read_bytes()


def test_a_model_that_changed_meanwhile_is_not_overwritten(model, sets):
    ready = prepare(model, sets / "second", settings=Settings(epochs=1), device="cpu")
    taught(model, sets / "second", epochs=1, name="somebody else's")
    theirs = model.read_bytes()
    with pytest.raises(UsageError, match="changed by another process"):
        teach(ready)
    assert model.read_bytes() == theirs


def test_answers_name_task_score_and_unknown(once, twice, sets):
    picture = sets / "test" / "blue" / "0.png"
    result = run("predict", twice, picture, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["task"] in ("task 1", "task 2")
    assert 0 <= row["score"] <= 1
    threshold = read_taught(twice).facts.tasks[-1].threshold
    assert row["unknown"] == (row["score"] < threshold)
    assert len(row["predictions"]) == {"task 1": 2, "task 2": 1}[row["task"]]
    assert pipeline(str(once))(picture).told.is_unknown is None  # one head has never seen another class
    chances = pipeline(str(twice), probabilities=True)(picture).probabilities
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    assert "score" in run("predict", twice, picture).stdout


def test_the_threshold_lets_95_per_cent_of_the_kept_pictures_through(twice):
    model = read_taught(twice)
    rows, _ = model.memory.labelled()
    pictures = [model.picture(int(row)) for row in rows]
    scores = np.array([result.told.score for result in pipeline(str(twice))(pictures)])
    close = 1e-5  # pipelines fold norms
    assert (scores >= model.facts.tasks[-1].threshold - close).mean() >= 0.95


def test_the_matrix_is_measured_with_the_heads_of_its_time(once, twice, sets):
    whole = evaluate_taught(twice, str(sets / "test"), device="cpu")
    early = evaluate_taught(once, str(sets / "test"), device="cpu")
    assert whole.matrix[0, 0] == early.matrix[0, 0]
    assert np.isnan(whole.matrix[1, 0])
    assert whole.pictures.tolist() == [8, 4]  # grey was never taught, and counts as unknown
    assert set(whole.figures) >= {"forgetting", "average_incremental_accuracy", "unknown_auroc"}
    assert whole.of_class.mean() == pytest.approx(whole.recall[-1])
    assert early.figures["accuracy_within_task"] == early.overall[0]  # with one task it is always told right
    assert whole.figures["accuracy_within_task"] >= whole.overall[-1]
    result = run("eval", twice, sets / "test", "--json")
    assert json.loads(result.stdout)["matrix"][1][0] is None
    assert "after 2" in run("eval", twice, sets / "test").stdout


def test_report_and_info_tell_the_tasks(twice):
    shown = json.loads(run("teach", twice, "--report", "--json").stdout)
    assert [task["classes"] for task in shown["tasks"]] == [["green", "red"], ["blue"]]
    assert [task["counts"] for task in shown["tasks"]] == [[8, 8], [8]]
    text = run("info", twice).stdout
    assert "3 classes taught in 2 tasks" in text
    assert "6 pictures of at most 8" in text


def test_the_table_has_before_and_after(model, sets):
    result = run("teach", model, "--add", sets / "second", "--epochs", 1, "--val", sets / "test", "--json")
    rows = json.loads(result.stdout)["tasks"]
    assert rows[0]["before"] is not None
    assert rows[1]["before"] is None
    assert [row["pictures"] for row in rows] == [8, 4]


def test_a_file_without_memory_answers_alike_and_learns_no_more(twice, tmp_path, sets):
    bare = tmp_path / "bare.zoo"
    assert run("teach", twice, "--no-memory", "--out", bare).exit_code == 0
    picture = sets / "test" / "red" / "0.png"
    a, b = (pipeline(str(path))(picture) for path in (twice, bare))
    assert a.to_dict() == b.to_dict()
    assert "cannot learn more" in str(refused("teach", bare, "--add", write(tmp_path / "new", "grey")))
    assert read_taught(bare).pictures == ()


def test_pictures_can_be_given_back_to_a_file_without_memory(twice, model_of_two, tmp_path, sets):
    bare, again = tmp_path / "bare.zoo", tmp_path / "again.zoo"
    run("teach", model_of_two, "--no-memory", "--out", bare)
    assert run("teach", bare, "--remember", sets / "test", "--memory", 6, "--out", again).exit_code == 0
    model = read_taught(again)
    assert model.facts.memory.counts == (2, 2, 2)  # grey, which it never learned, is passed over
    state = model.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in read_taught(twice).network.state_dict().items())
    ready = prepare(again, write(tmp_path / "new", "grey"), device="cpu")
    assert ready.task.quota == 2
    assert ready.task.kept_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert run("teach", again, "--undo").exit_code == 0
    assert read_taught(again).facts.memory.counts == (2, 2)


def test_more_pictures_of_known_classes_are_chosen_from_beside_those_kept(model, sets):
    kept = read_taught(model).pictures
    assert run("teach", model, "--remember", sets / "test").exit_code == 0
    once = read_taught(model)
    assert once.facts.memory.limit == 8
    assert once.facts.memory.counts == (4, 4)
    assert not set(once.pictures) <= set(kept)
    run("teach", model, "--remember", sets / "first", "--memory", 200)
    run("teach", model, "--remember", sets / "test")
    counts = read_taught(model).facts.memory.counts
    assert counts == (12, 12)  # each picture once: eight of the lesson and four of the test


def test_what_cannot_be_remembered(model, tmp_path, sets):
    bare = tmp_path / "bare.zoo"
    run("teach", model, "--no-memory", "--out", bare)
    old = bare.read_bytes()
    red = write(tmp_path / "some", "red")
    assert "no picture of green" in str(refused("teach", bare, "--remember", red, kind=InputError))
    assert "no folder of a known" in str(refused("teach", bare, "--remember", write(tmp_path / "other", "grey")))
    assert "no room for 2 classes" in str(refused("teach", bare, "--remember", sets / "first", "--memory", 1))
    (red / "green").mkdir()
    (red / "green" / "0.png").write_bytes(b"text")
    assert "1 did not open" in str(refused("teach", bare, "--remember", red, kind=InputError))
    (red / "red" / "bad.png").write_bytes(b"text")
    assert run("teach", model, "--remember", red).exit_code == 1  # done, with two bad files listed
    assert bare.read_bytes() == old


def test_the_bundled_model_answers_by_name_and_learns_from_a_copy(tmp_path, sets):
    folder, mine = tmp_path / "known", tmp_path / "mine.zoo"
    for name in ("nv", "vasc", "df", "mel", "akiec", "bcc", "bkl"):
        write(tmp_path / name, "red", count=2, seed=len(name))
        (tmp_path / name / "red").rename(folder.mkdir(exist_ok=True) or folder / name)
    said = run("predict", "acl_lite0", sets / "test" / "red" / "0.png", "--jsonl")
    assert json.loads(said.stdout)["task"] in ("round 1", "round 2", "round 3")
    assert "akiec, bcc, bkl" in run("teach", "acl_lite0.ham10000", "--report").stdout
    folder_for_the_hub = build_folder("acl_lite0", tmp_path / "hub")
    assert [path.name for path in folder_for_the_hub.files] == ["README.md", "config.json", "model.safetensors"]
    fault = refused("teach", "acl_lite0", "--add", sets / "first")
    assert "stays as it is" in str(fault)
    assert "--remember" in fault.hint
    assert run("teach", "acl_lite0", "--remember", folder, "--memory", 14, "--out", mine).exit_code == 0
    ready = prepare(mine, sets / "first", device="cpu")
    assert (ready.task.first, ready.task.quota) == (7, 2)


def test_a_file_with_pictures_is_not_published(model):
    """Even where a card names that very file."""
    card = load_card("acl_lite0.ham10000")
    weights = msgspec.structs.replace(card.weights, bytes=model.stat().st_size, sha256=sha256_of(model))
    with pytest.raises(IntegrityError, match="holds pictures"):
        _check_file(msgspec.structs.replace(card, weights=weights), model)


def test_the_bundled_extractor_is_referred_to_and_checked(tmp_path, sets):
    path = tmp_path / "lite.zoo"
    taught(path, sets / "first", Start(size=48, memory=4), epochs=1)
    model = read_taught(path)
    assert model.facts.base.sha256
    assert path.stat().st_size < 2_500_000  # adapters and a head; the extractor has 7 MB
    other = msgspec.structs.replace(model.facts.base, sha256="0" * 64)
    changed = tmp_path / "changed.zoo"
    facts = msgspec.structs.replace(model.facts, base=other)
    changed.write_bytes(replace(model, facts=facts).to_bytes())
    fault = refused("predict", changed, sets / "test" / "red", kind=IntegrityError)
    assert "taught on another file of lite0_extractor" in str(fault)


def test_adapters_can_learn_in_batches_that_draw_classes_evenly():
    labels = torch.tensor([0] * 90 + [1] * 10)
    seen = torch.cat([labels[rows] for rows, _ in adapters._batches(labels, Settings(is_balanced=True), 1)])
    assert 0.3 < seen.double().mean() < 0.7  # 100 draws at a half: 0.5 with a deviation of 0.05
    plain = torch.cat([rows for rows, _ in adapters._batches(labels, Settings(), 1)])
    assert sorted(plain.tolist()) == list(range(100))


def test_no_batch_is_left_with_one_picture():
    sizes = [len(rows) for rows, _ in adapters._batches(torch.zeros(65, dtype=torch.int64), Settings(), 1)]
    assert min(sizes) > 1
    assert sum(sizes) == 65


def test_rates_fall_where_the_authors_do():
    assert [stepped(1, adapters.DROPS, e, 200) for e in (69, 70, 129, 130, 169, 170)] == pytest.approx(
        [1, 0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert [stepped(1, adapters.HEAD_DROPS, e, 50) for e in (14, 15, 34, 35)] == pytest.approx([1, 0.1, 0.1, 0.01])


def bad_folder(tmp_path, **files):
    folder = write(tmp_path / "bad", "blue", "grey")
    for path in (folder / "grey").iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / "grey" / f"{name}.png").write_bytes(content)
    return folder


def test_a_class_of_one_picture_is_refused(model, tmp_path):
    folder = write(tmp_path / "one", "grey", count=1)
    assert "too few pictures of grey (1)" in str(refused("teach", model, "--add", folder, kind=InputError))


def test_pictures_that_do_not_open_are_said(model, tmp_path):
    fault = refused("teach", model, "--add", bad_folder(tmp_path, a=b"", b=b"text"), kind=InputError)
    assert "grey (0); 2 did not open, such as" in str(fault)


def test_a_few_bad_pictures_are_left_out_and_listed(model, tmp_path):
    folder = write(tmp_path / "mixed", "grey")
    (folder / "grey" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    result = run("teach", model, "--add", folder, "--epochs", 1)
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert read_taught(model).facts.tasks[1].counts == (6,)  # a fifth of eight is held out


def test_bad_pictures_to_measure_on_are_listed_as_well(model, tmp_path):
    write(tmp_path / "new", "blue", seed=1)
    write(tmp_path / "test", "red", "grey", count=4, seed=2)
    for name in ("red", "grey"):  # grey is still to come, and passed over
        (tmp_path / "test" / name / "0.png").write_bytes(b"no picture")
    ready = prepare(model, tmp_path / "new", val=tmp_path / "test", device="cpu")
    assert len(ready.measured[1]) == 3
    assert [fault.message for fault in ready.failed] == [
        f"{tmp_path / 'test' / 'red' / '0.png'} is text, not a picture"
    ]


def test_a_known_class_is_refused(model, sets):
    old = model.read_bytes()
    assert "knows green, red already" in str(refused("teach", model, "--add", sets / "first"))
    assert model.read_bytes() == old


def test_a_first_task_of_one_class_is_refused(tmp_path, sets, weights):
    path = tmp_path / "new.zoo"
    options = ("--extractor", EXTRACTOR, "--checkpoint", weights, "--size", 64)
    assert "nothing to tell it from" in str(refused("teach", path, "--add", sets / "second", *options))
    assert not path.exists()


def test_more_classes_than_the_memory_holds_are_refused(tmp_path, sets, weights):
    path = tmp_path / "new.zoo"
    taught(path, sets / "first", start(weights, memory=2), epochs=1)
    assert "no room for 3 classes" in str(refused("teach", path, "--add", sets / "second"))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (("--add", "nowhere"), InputError, "is no folder"),
        (("--add", "{second}", "--memory", 50), UsageError, "are settled"),
        (("--add", "{second}", "--name", "task 1"), UsageError, "a task called"),
        (("--add", "{second}", "--val", "1.5"), UsageError, "no share"),
        (("--add", "{second}", "--undo"), UsageError, "say one of"),
        ((), UsageError, "say one of"),
        (("--undo",), UsageError, "no second task"),
    ],
)
def test_calls_that_cannot_work(options, kind, said, model, sets):
    old = model.read_bytes()
    options = [str(option).format(second=sets / "second") for option in options]
    assert said in str(refused("teach", model, *options, kind=kind))
    assert model.read_bytes() == old


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (("--extractor", "nosuchthing"), UnknownName, "nosuchthing"),
        (("--extractor", "timm:nosuchthing"), UnknownName, "timm has no model"),
        (("--extractor", "pslt_tiny"), WeightsUnavailable, "no published weights"),
        (("--extractor", "pyramid_texture_filter"), UsageError, "made to filter"),
        (("--method", "nosuchthing"), UnknownName, "no method"),
        (("--size", 16), UsageError, "3x3 is the least"),
    ],
)
def test_new_models_that_cannot_be(options, kind, said, tmp_path, sets):
    fault = refused("teach", tmp_path / "new.zoo", "--add", sets / "first", *options, kind=kind)
    assert said in str(fault)
    assert fault.hint
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_called_zoo(sets, model, tmp_path):
    assert "is not called .zoo" in str(refused("teach", tmp_path / "m.pt", "--add", sets / "first"))
    assert "is not called .zoo" in str(refused("teach", model, "--undo", "--out", tmp_path / "m.pt"))
    assert "is no taught model" in str(refused("teach", "pslt_pico", "--add", sets / "first"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "header promises"),
        (lambda data: data.replace(b"taught-v1", b"taught-v9"), "does not know"),
        (lambda data: data.replace(b"taught-v1", b"othered-1"), "no taught model"),
        (lambda data: data.replace(b'adapters\\"', b'adaptors\\"', 1), "describe itself"),
        (lambda data: data.replace(b'num_features\\": 2', b'num_features\\": 9', 1), "does not fit"),
        (lambda data: data.replace(b'counts\\": [4', b'counts\\": [3', 1), "other pictures"),
    ],
)
def test_damaged_files_are_refused_in_one_line(damage, said, model, sets):
    data = damage(model.read_bytes())
    assert data != model.read_bytes()
    model.write_bytes(data)
    fault = refused("predict", model, sets / "test" / "red", kind=ZooError)
    assert isinstance(fault, IntegrityError)
    assert said in str(fault)


def test_an_extractor_of_ours_has_the_cards_digest():
    extractor = open_extractor("lite0_extractor")
    assert extractor.name == "lite0_extractor.in1k"
    assert len(extractor.sha256) == 64
