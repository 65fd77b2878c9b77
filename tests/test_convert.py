"""Authors' files to ours: complete or refused, and no code of theirs is run."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import zoo
from tests.goldens import Golden, golden_cases
from zoo.convert import convert, rename, survey
from zoo.errors import InputError, IntegrityError, UnknownName, UsageError
from zoo.hub.checkpoint import read_contents
from zoo.hub.fetch import sha256_of
from zoo.unpickle import read_pickle, unwrap

NETWORKS = golden_cases("reste_*_cifar")
CASE = Golden("reste_resnet20_cifar")


def save(path, content, **how):
    """A pickle, which takes a process of its own to read."""
    torch.save(content, path, **how)
    return path


def plain(path, state):
    """The same tensors where a pickle is not what the test is about."""
    path = path.with_suffix(".safetensors")
    save_file({key: value.contiguous() for key, value in state.items()}, path)
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


@pytest.fixture
def source(tmp_path):
    """Its tensors alone, as safetensors."""
    return plain(tmp_path / "authors", CASE.authors_state())


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_from_the_authors_file_to_the_authors_logits(tmp_path, case):
    source = plain(tmp_path / "authors", case.authors_state())
    report = convert(case.facts["model"], source, tmp_path / "out.safetensors")
    assert report.is_complete
    assert len(report.renamed) + len(report.kept) == len(case.facts["state_dict"])
    model = zoo.create_model(case.facts["model"], checkpoint_path=tmp_path / "out.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(case.input()), case.tensor("logits_float32"), rtol=0, atol=1e-4)


def test_the_file_knows_where_it_came_from(authors, tmp_path):
    out = tmp_path / "out.safetensors"
    report = convert("reste_resnet20_cifar", authors, out, act_bits=32)
    facts = read_contents(out).facts
    assert facts == {
        "architecture": "reste_resnet20_cifar",
        "builder_args": {"num_classes": 10, "in_chans": 3, "act_bits": 32},
        "format": "float",
        "source": "authors.pth.tar",
        "source_sha256": sha256_of(authors),
        "parity": report.parity,
    }
    assert zoo.create_model("reste_resnet20_cifar", checkpoint_path=out).layer1[0].conv1.act_bits == 32


def test_a_checkpoints_name_brings_its_arguments(source, tmp_path):
    convert("reste_resnet20_cifar.c10_w1a32", source, tmp_path / "out.safetensors")
    assert read_contents(tmp_path / "out.safetensors").facts["builder_args"]["act_bits"] == 32


def test_classes_and_channels_are_inferred(tmp_path):
    made = zoo.create_model("reste_resnet20_cifar", num_classes=7, in_chans=1).eval()
    theirs = {
        key.replace("head_norm.", "bn2.").replace("fc.", "linear."): value for key, value in made.state_dict().items()
    }
    report = convert("reste_resnet20_cifar", plain(tmp_path / "a", theirs), tmp_path / "out.safetensors")
    assert report.builder_args == {"num_classes": 7, "in_chans": 1, "act_bits": 1}
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=tmp_path / "out.safetensors").eval()
    assert torch.equal(model.fc.weight, made.fc.weight)
    with pytest.raises(IntegrityError, match="of another shape"):
        convert("reste_resnet20_cifar", tmp_path / "a.safetensors", tmp_path / "no.safetensors", num_classes=10)


@pytest.mark.parametrize(
    ("wrapped", "new"), [(lambda s: {"model": s}, True), (lambda s: {"state_dict": {"model": s}}, False)]
)
def test_both_layouts_of_torch_save_and_what_is_wrapped_around(tmp_path, wrapped, new):
    source = save(tmp_path / "a.pth", wrapped(CASE.authors_state()), _use_new_zipfile_serialization=new)
    report = survey("reste_resnet20_cifar", source)
    assert report.is_complete
    assert len(report.renamed) + len(report.kept) == len(CASE.facts["state_dict"])


def test_the_names_that_data_parallel_adds_come_off(tmp_path):
    source = plain(tmp_path / "a", {f"module.module.{key}": value for key, value in CASE.authors_state().items()})
    assert convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors").is_complete


def test_packed(source, tmp_path):
    out = tmp_path / "out.safetensors"
    convert("reste_resnet20_cifar", source, out, packed=True)
    assert out.stat().st_size < 62_000  # 1.1 MB as floats
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(CASE.input()), CASE.tensor("logits_float32"), rtol=0, atol=1e-4)


def test_a_weight_without_a_sign_cannot_be_packed(tmp_path):
    state = CASE.authors_state()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = 0
    with pytest.raises(IntegrityError, match=r"cannot be packed: layer1\.0\.conv1"):
        convert("reste_resnet20_cifar", plain(tmp_path / "a", state), tmp_path / "out.safetensors", packed=True)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_report_names_every_key(source):
    report = survey("reste_resnet20_cifar", source)
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
    source = plain(tmp_path / "a", state)
    with pytest.raises(IntegrityError) as caught:
        convert("reste_resnet20_cifar", source, out)
    assert said in caught.value.message
    assert "nothing was written" in caught.value.hint
    assert out.read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out.safetensors"]
    assert not survey("reste_resnet20_cifar", source).is_complete


def test_values_that_are_no_tensors_are_reported(tmp_path):
    report = survey("reste_resnet20_cifar", save(tmp_path / "a.pth", CASE.authors_state() | {"epoch": 3}))
    assert report.is_complete
    assert report.dropped == [("epoch", "int")]


def test_another_network_is_refused(source, tmp_path):
    with pytest.raises(IntegrityError, match="missing"):
        convert("reste_vggsmall_cifar", source, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "args", [{"act_bit": 32}, {"act_bits": 3}, {"pretrained_cfg": {}}, {"num_classes": -1}, {"out": 1}], ids=str
)
def test_arguments_that_the_builder_does_not_take(source, tmp_path, args):
    with pytest.raises(UsageError, match="cannot be built"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors", **args)


def test_names_and_places(source, tmp_path):
    with pytest.raises(UnknownName):
        convert("reste_resnet21", source, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="not called"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.pth")
    with pytest.raises(InputError, match="absent"):
        convert("reste_resnet20_cifar", tmp_path / "absent.pth", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="cannot be written"):
        convert("reste_resnet20_cifar", source, tmp_path / "nowhere" / "out.safetensors")


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "how", ["torch", *(pytest.param(how, marks=pytest.mark.slow) for how in ("old torch", "pickle"))]
)
def test_a_hostile_pickle_runs_nothing(tmp_path, how):
    trace = tmp_path / "trace"
    content = CASE.authors_state() | {"payload": Hostile(trace)}
    source = tmp_path / "a.pth"
    if how == "pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        save(source, content, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(IntegrityError, match=r"plain weights: [Uu]nsupported (\w|[ .:])+\n"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors")
    assert not trace.exists()


class Huge:
    """Asks for a terabyte when it is unpickled; bytearray is among what weights_only lets through."""

    def __reduce__(self):
        return (bytearray, (10**12,))


def test_a_pickle_that_wants_memory_is_stopped(tmp_path):
    source = save(tmp_path / "a.pth", CASE.authors_state() | {"payload": Huge()})
    with pytest.raises(IntegrityError, match="wants more memory than 4 times its size"):
        survey("reste_resnet20_cifar", source)


def test_a_number_that_is_said_to_be_many_is_refused(tmp_path):
    state = CASE.authors_state()
    state["linear.weight"] = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(IntegrityError, match="its tensors have 4000001"):
        survey("reste_resnet20_cifar", save(tmp_path / "a.pth", state))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of computing time there; it takes five minutes")
def test_a_pickle_that_takes_long_is_stopped(tmp_path):
    """Tuples that hold the one before twice, as a key: a few bytes, and endless to take the hash of."""
    source = tmp_path / "a.pth"
    source.write_bytes(b"\x80\x02})" + b"q\0h\0\x86" * 60 + b"K\1s.")
    with pytest.raises(IntegrityError, match="its reader was stopped, at 1 seconds"):
        read_pickle(source, seconds=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [([1, 2], "weights"), ({}, "weights"), ({1: 2}, "weights"), ({"state_dict": {}}, "weights"), (None, "weights")],
    ids=["list", "empty", "numbers for names", "empty state", "none"],
)
def test_what_holds_no_weights(content, said):
    with pytest.raises(ValueError, match=f"no {said} by name"):
        unwrap(content)


@pytest.mark.parametrize(
    "content", [pytest.param(torch.ones(3), marks=pytest.mark.slow), {"epoch": 1}], ids=["tensor", "no tensors"]
)
def test_pickles_without_weights(tmp_path, content):
    with pytest.raises(IntegrityError, match=r"a\.pth holds no"):
        survey("reste_resnet20_cifar", save(tmp_path / "a.pth", content))


@pytest.mark.slow
def test_numpy_scalars_are_no_reason_to_run_code(tmp_path):
    source = save(tmp_path / "a.pth", CASE.authors_state() | {"best": np.random.default_rng(0)})
    with pytest.raises(IntegrityError, match="plain weights"):
        survey("reste_resnet20_cifar", source)


BROKEN = [b"", b"\x80", b"PK\x03\x04", 0.3, 0.9]


@pytest.mark.parametrize("content", [pytest.param(part, marks=pytest.mark.slow) for part in BROKEN[:-1]] + BROKEN[-1:])
def test_broken_pickles(authors, tmp_path, content):
    whole = authors.read_bytes()
    source = tmp_path / "a.pth"
    source.write_bytes(content if isinstance(content, bytes) else whole[: int(len(whole) * content)])
    with pytest.raises(IntegrityError) as caught:
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out.safetensors").exists()


# parity


def golden_file(path, output=None):
    """What the authors' code gives, as whoever has it would write it down."""
    np.savez(path, input=CASE.input().numpy(), output=CASE.arrays["logits_float32"] if output is None else output)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_the_authors_outputs_are_given_again(source, tmp_path, packed):
    out, check = tmp_path / "out.safetensors", golden_file(tmp_path / "golden.npz")
    report = convert("reste_resnet20_cifar", source, out, packed=packed, check=check)
    assert report.parity["by"] == "golden.npz"
    assert report.parity["sha256"] == sha256_of(check)
    assert report.parity["largest_difference"] <= report.parity["allowed"]
    assert read_contents(out).facts["parity"] == report.parity


def test_other_outputs_than_the_authors_are_refused(source, tmp_path):
    wrong = CASE.arrays["logits_float32"].copy()
    wrong[0, 0] += 0.01
    with pytest.raises(IntegrityError, match=r"differ by 0\.01 from golden\.npz"):
        convert(
            "reste_resnet20_cifar",
            source,
            tmp_path / "out.safetensors",
            check=golden_file(tmp_path / "golden.npz", wrong),
        )
    with pytest.raises(
        IntegrityError, match="differ by"
    ):  # the arguments do not show in the tensors, but in the outputs
        convert(
            "reste_resnet20_cifar",
            source,
            tmp_path / "out.safetensors",
            check=golden_file(tmp_path / "golden.npz"),
            act_bits=32,
        )
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "arrays",
    [{"input": np.zeros((1, 3, 32, 32), np.float32)}, {"input": np.zeros(3), "output": np.zeros(3)}, b"hello", b""],
    ids=["no output", "another shape", "no archive", "empty"],
)
def test_checks_that_are_none(source, tmp_path, arrays):
    check = tmp_path / "golden.npz"
    if isinstance(arrays, bytes):
        check.write_bytes(arrays)
    else:
        np.savez(check, **arrays)
    with pytest.raises(InputError, match=r"golden\.npz"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors", check=check)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_check_that_was_damaged_on_the_way(source, tmp_path):
    check = tmp_path / "golden.npz"
    np.savez_compressed(check, input=np.zeros((1, 3, 32, 32), np.float32), output=np.zeros((1, 10), np.float32))
    content = bytearray(check.read_bytes())
    content[60:80] = bytes(20)
    check.write_bytes(content)
    with pytest.raises(InputError, match=r"golden\.npz holds no input and output"):
        convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors", check=check)


def test_without_the_authors_outputs_the_probe_is_stated(source, tmp_path):
    parity = convert("reste_resnet20_cifar", source, tmp_path / "out.safetensors", packed=True).parity
    image = eval(parity["input"])
    model = zoo.create_model("reste_resnet20_cifar", checkpoint_path=tmp_path / "out.safetensors").eval()
    with torch.no_grad():
        outputs = model(image).flatten()[:5]
    torch.testing.assert_close(outputs, torch.tensor(parity["first_outputs"]), rtol=0, atol=2 * parity["allowed"])


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
