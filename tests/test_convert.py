"""Authors' files to ours: complete or refused, and no code of theirs is run."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from tests.goldens import Golden, golden_cases
from zoo.convert import convert, rename, survey
from zoo.errors import InputError, IntegrityError, UnknownName, UsageError
from zoo.hub.checkpoint import read_contents
from zoo.hub.fetch import sha256_of

NETWORKS = golden_cases("reste_*_cifar")
CASE = Golden("reste_resnet20_cifar")


def save(path, content, **how):
    torch.save(content, path, **how)
    return path


@pytest.fixture
def authors(tmp_path):
    """A checkpoint as the authors' training script leaves it."""
    state = CASE.authors_state()
    parameters = [torch.nn.Parameter(value) for value in state.values() if value.is_floating_point()]
    content = {
        "epoch": 999,
        "model": "resnet20_1w1a",
        "state_dict": state,
        "best_prec1": 86.75,
        "parameters": parameters,
    }
    return save(tmp_path / "authors.pth.tar", content)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_from_the_authors_file_to_the_authors_logits(tmp_path, case):
    source = save(tmp_path / "authors.pth", case.authors_state())
    report = convert(case.facts["model"], source, tmp_path / "out.safetensors")
    assert report.is_complete
    assert len(report.renamed) + len(report.kept) == len(case.facts["state_dict"])
    model = zoo.create_model(case.facts["model"], checkpoint_path=tmp_path / "out.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(case.input()), case.tensor("logits_float32"), rtol=0, atol=1e-4)


def test_the_file_knows_where_it_came_from(authors, tmp_path):
    out = tmp_path / "out.safetensors"
    convert("reste_resnet20_cifar", authors, out, act_bits=32)
    facts = read_contents(out).facts
    assert facts == {
        "architecture": "reste_resnet20_cifar",
        "builder_args": {"num_classes": 10, "in_chans": 3, "act_bits": 32},
        "format": "float",
        "source": "authors.pth.tar",
        "source_sha256": sha256_of(authors),
    }
    assert zoo.create_model("reste_resnet20_cifar", checkpoint_path=out).layer1[0].conv1.act_bits == 32


def test_a_checkpoints_name_brings_its_arguments(authors, tmp_path):
    convert("reste_resnet20_cifar.c10_w1a32", authors, tmp_path / "out.safetensors")
    assert read_contents(tmp_path / "out.safetensors").facts["builder_args"]["act_bits"] == 32


def test_classes_and_channels_are_inferred(tmp_path):
    made = zoo.create_model("reste_resnet20_cifar", num_classes=7, in_chans=1).eval()
    theirs = {
        key.replace("head_norm.", "bn2.").replace("fc.", "linear."): value for key, value in made.state_dict().items()
    }
    report = convert("reste_resnet20_cifar", save(tmp_path / "a.pth", theirs), tmp_path / "out.safetensors")
    assert report.builder_args == {"num_classes": 7, "in_chans": 1, "act_bits": 1}
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=tmp_path / "out.safetensors").eval()
    assert torch.equal(model.fc.weight, made.fc.weight)
    with pytest.raises(IntegrityError, match="of another shape"):
        convert("reste_resnet20_cifar", tmp_path / "a.pth", tmp_path / "no.safetensors", num_classes=10)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"model": s},
        lambda s: {"state_dict": {"model": s}},
        lambda s: {f"module.module.{k}": v for k, v in s.items()},
    ],
    ids=["model", "twice", "module."],
)
def test_wrappers_come_off(tmp_path, wrapped):
    source = save(tmp_path / "a.pth", wrapped(CASE.authors_state()))
    assert convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors").is_complete


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old pickle"])
def test_both_layouts_of_torch_save(tmp_path, old):
    source = save(tmp_path / "a.pth", CASE.authors_state(), _use_new_zipfile_serialization=not old)
    assert survey("reste_resnet20_cifar", source).is_complete


def test_packed(authors, tmp_path):
    out = tmp_path / "out.safetensors"
    convert("reste_resnet20_cifar", authors, out, packed=True)
    assert out.stat().st_size < 62_000  # 1.1 MB as floats
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(CASE.input()), CASE.tensor("logits_float32"), rtol=0, atol=1e-4)


def test_a_weight_without_a_sign_cannot_be_packed(tmp_path):
    state = CASE.authors_state()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = 0
    with pytest.raises(IntegrityError, match=r"cannot be packed: layer1\.0\.conv1"):
        convert("reste_resnet20_cifar", save(tmp_path / "a.pth", state), tmp_path / "out.safetensors", packed=True)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_report_names_every_key(authors):
    report = survey("reste_resnet20_cifar", authors)
    assert ("bn2.weight", "head_norm.weight", (64,)) in report.renamed
    assert ("linear.weight", "fc.weight", (10, 64)) in report.renamed
    assert ("conv1.weight", (16, 3, 3, 3)) in report.kept
    assert len(report.renamed) == 7
    assert len(report.kept) == 114
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["complete"] is True
    assert "7 keys renamed, 114 kept, 0 dropped; complete" in str(report)


CHANGES = {
    "missing": (lambda s: s.pop("bn1.weight"), "1 missing (bn1.weight)"),
    "unexpected": (lambda s: s.update({"extra.weight": torch.ones(2)}), "1 unexpected (extra.weight)"),
    "shape": (lambda s: s.update({"bn1.weight": torch.ones(3)}), "1 of another shape (bn1.weight (3,) for (16,))"),
    "not a number": (lambda s: s["bn1.weight"].fill_(torch.nan), "1 not finite (bn1.weight)"),
    "complex": (lambda s: s.update({"bn1.weight": torch.ones(16, dtype=torch.complex64)}), "1 of another type"),
    "no head": (lambda s: (s.pop("linear.weight"), s.pop("linear.bias")), "2 missing (fc.weight, fc.bias)"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_incomplete_files_are_refused_and_nothing_is_written(tmp_path, kind):
    change, said = CHANGES[kind]
    state = CASE.authors_state()
    change(state)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"what was there before")
    source = save(tmp_path / "a.pth", state)
    with pytest.raises(IntegrityError) as caught:
        convert("reste_resnet20_cifar", source, out)
    assert said in caught.value.message
    assert "nothing was written" in caught.value.hint
    assert out.read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "out.safetensors"]
    assert not survey("reste_resnet20_cifar", source).is_complete


def test_values_that_are_no_tensors_are_reported(tmp_path):
    report = survey("reste_resnet20_cifar", save(tmp_path / "a.pth", CASE.authors_state() | {"epoch": 3}))
    assert report.is_complete
    assert report.dropped == [("epoch", "int")]


def test_another_network_is_refused(authors, tmp_path):
    with pytest.raises(IntegrityError, match="missing"):
        convert("reste_vggsmall_cifar", authors, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "args", [{"act_bit": 32}, {"act_bits": 3}, {"pretrained_cfg": {}}, {"num_classes": -1}, {"out": 1}], ids=str
)
def test_arguments_that_the_builder_does_not_take(authors, tmp_path, args):
    with pytest.raises(UsageError, match="cannot be built"):
        convert("reste_resnet20_cifar", authors, tmp_path / "out.safetensors", **args)


def test_names_and_places(authors, tmp_path):
    with pytest.raises(UnknownName):
        convert("reste_resnet21", authors, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="not called"):
        convert("reste_resnet20_cifar", authors, tmp_path / "out.pth")
    with pytest.raises(InputError, match="absent"):
        convert("reste_resnet20_cifar", tmp_path / "absent.pth", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="cannot be written"):
        convert("reste_resnet20_cifar", authors, tmp_path / "nowhere" / "out.safetensors")


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_hostile_pickle_runs_nothing(tmp_path, how):
    trace = tmp_path / "trace"
    content = CASE.authors_state() | {"payload": Hostile(trace)}
    source = tmp_path / "a.pth"
    if how == "pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        save(source, content, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(IntegrityError, match="plain weights"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"epoch": 1}, {1: torch.ones(1)}, {"state_dict": {}}, torch.ones(3), None],
    ids=["list", "empty", "no tensors", "numbers for names", "empty state", "tensor", "none"],
)
def test_pickles_without_weights(tmp_path, content):
    with pytest.raises(IntegrityError, match="holds no"):
        survey("reste_resnet20_cifar", save(tmp_path / "a.pth", content))


def test_numpy_scalars_are_no_reason_to_run_code(tmp_path):
    source = save(tmp_path / "a.pth", CASE.authors_state() | {"best": np.random.default_rng(0)})
    with pytest.raises(IntegrityError, match="plain weights"):
        survey("reste_resnet20_cifar", source)


def test_broken_pickles(authors, tmp_path):
    whole = authors.read_bytes()
    rng = random.Random(3)
    source = tmp_path / "a.pth"
    broken = [b"", b"\x80", b"PK\x03\x04", rng.randbytes(4000), *(whole[: rng.randrange(len(whole))] for _ in range(8))]
    for content in broken:
        source.write_bytes(content)
        with pytest.raises(IntegrityError) as caught:
            convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors")
        assert "\n" not in caught.value.message


def test_rename_applies_the_rules_in_order():
    state = {"a.x": torch.ones(1), "b.x": torch.zeros(1), "junk.total": torch.zeros(1)}
    assert list(rename(state, ((r"^a\.", "c."), (r"^c\.", "d."), (r"^junk\.", None)))) == ["d.x", "b.x"]
    with pytest.raises(ValueError, match=r"two keys become b\.x"):
        rename(state, ((r"^a\.", "b."),))


@given(st.randoms())
def test_the_order_of_keys_does_not_matter(tmp_path_factory, rng):
    state = list(CASE.authors_state().items())
    rng.shuffle(state)
    ours = rename(dict(state), zoo.models.reste.RESNET_KEYS)
    model = copy.copy(zoo.build.skeleton(zoo.card("reste_resnet20_cifar"), {}))
    assert set(ours) == set(model.state_dict())
