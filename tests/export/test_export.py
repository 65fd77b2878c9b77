"""Exported files give the network's outputs for any batch, say what a user must know, and are refused otherwise."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import zoo
from tests.goldens import fill
from zoo.cli.app import commands
from zoo.data.sources import Samples
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, IntegrityError, UnknownName, UsageError, WeightsUnavailable
from zoo.export.check import FORMATS, check, compare_outputs, steady_pictures
from zoo.export.export import METADATA_FILE, export, facts_of, to_onnx, to_torch_export, trace
from zoo.export.reduced import compare_accuracy, pictures_of
from zoo.hub.checkpoint import facts_for
from zoo.layers.engine import FrozenBinaryConv2d, freeze
from zoo.registry.labels import label_names

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RESNET, VGG = "reste_resnet20_cifar", "reste_vggsmall_cifar"
SIZE = (3, 32, 32)
BOTH = ("onnx", "torch-export")
FACTS = {
    "name": f"{RESNET}.c10",
    "task": "classify",
    "license": "apache-2.0",
    "input_size": list(SIZE),
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "batch": "dynamic",
    "labels": list(label_names("cifar10")),
    "act_bits": 1,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that gives a checkpoint with golden values for builder arguments, and its network."""
    folder = tmp_path_factory.mktemp("weights")

    def write(architecture=RESNET, **args):
        path = folder / f"{architecture}{''.join(f'-{key}{value}' for key, value in args.items())}.safetensors"
        state = zoo.create_model(architecture, **args).state_dict()
        save_file(
            {key: fill(key, tuple(value.shape)) for key, value in state.items()}, path, facts_for(architecture, args)
        )
        return path, zoo.create_model(architecture, checkpoint_path=path).eval()

    return write


@pytest.fixture(scope="module")
def exported(written, tmp_path_factory):
    """A ResNet-20 in both formats: format to file."""
    path, _ = written()
    files = {
        format: tmp_path_factory.mktemp("exported") / f"net{suffix}"
        for format, suffix in FORMATS.items()
        if format in BOTH
    }
    for format, file in files.items():
        done = export(RESNET, file, format=format, checkpoint_path=path)
        assert done.batch_sizes == (1, 2, 5)
        assert done.bytes == file.stat().st_size < 1.3 * path.stat().st_size
    return files


def properties(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def metadata(path):
    extra = {METADATA_FILE: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[METADATA_FILE])


# what is written


def test_onnx_runs_on_any_batch_and_keeps_to_one_file(exported, written):
    file, (_, model) = exported["onnx"], written()
    onnx.checker.check_model(onnx.load(file), full_check=True)
    assert [path.name for path in file.parent.iterdir()] == [file.name], "weights outside"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["batch", *SIZE])
    assert (logits.name, logits.shape) == ("logits", ["batch", 10])
    x = steady_pictures(model, SIZE, 7)
    with torch.no_grad():
        found = torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
        torch.testing.assert_close(found, model(x), rtol=0, atol=1e-5)  # logits to 2.5, float32 sums in another order


def test_torch_export_runs_on_any_batch(exported, written):
    x = torch.randn(7, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.export.load(exported["torch-export"]).module()(x)
        torch.testing.assert_close(found, written()[1](x), rtol=0, atol=0)  # the very same operators


def test_the_metadata_says_what_a_user_must_know(exported, written):
    found = metadata(exported["torch-export"])
    assert {key: found[key] for key in FACTS} == FACTS
    assert len(found["weights_sha256"]) == 64
    assert "float32 simulation" in found["arithmetic"]
    flat = properties(exported["onnx"])
    assert flat == {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def test_no_folder_of_this_machine_is_in_the_file(exported):
    import zipfile
    from pathlib import Path

    own = str(Path(zoo.__file__).parent).encode()
    assert own not in exported["onnx"].read_bytes()
    with zipfile.ZipFile(exported["torch-export"]) as archive:
        assert not [name for name in archive.namelist() if own in archive.read(name)]


@pytest.mark.parametrize("format", BOTH)
def test_real_activations(format, written, tmp_path):
    path, _ = written(act_bits=32, num_classes=7)
    file = tmp_path / f"net{FORMATS[format]}"
    assert export(RESNET, file, format=format, checkpoint_path=path).largest_difference < 1e-5  # logits to 3
    found = metadata(file) if format == "torch-export" else properties(file)
    assert int(found["act_bits"]) == 32
    assert "labels" not in found, "ten names for seven classes"


def test_vgg(written, tmp_path):
    path, _ = written(VGG)
    done = export(VGG, tmp_path / "net.onnx", checkpoint_path=path, opset=21)
    assert done.largest_difference < 1e-4
    assert onnx.load(done.path).opset_import[0].version == 21


def test_the_sign_of_0_stays_0(tmp_path):
    torch.manual_seed(0)
    model = zoo.create_model(RESNET).eval()  # fresh norms leave what ReLU cut at exactly 0
    seen = []
    single = freeze(model)
    next(m for m in single.modules() if isinstance(m, FrozenBinaryConv2d)).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    single(steady_pictures(model, SIZE, 1))
    assert (seen[0] == 0).any()
    (tmp_path / "net.onnx").write_bytes(to_onnx(trace(model, SIZE)[0], {"task": "classify"}))
    assert check(tmp_path / "net.onnx", model, SIZE) < 1e-4


class OneAtATime(nn.Module):
    """Has a loop over the batch in its graph."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.mean((2, 3))) if len(x) == 1 else torch.stack([self.fc(y.mean((1, 2))) for y in x])


def test_a_network_that_fixes_its_batch_is_written_for_one_input(tmp_path):
    model = OneAtATime().eval()
    program, dynamic = trace(model, SIZE)
    assert not dynamic
    for format, to_bytes in (("onnx", to_onnx), ("torch-export", to_torch_export)):
        file = tmp_path / f"net{FORMATS[format]}"
        file.write_bytes(to_bytes(program, {"task": "embed"}))
        assert check(file, model, SIZE, batch_sizes=(1,)) < 1e-6
        with pytest.raises(IntegrityError, match="batch of 2"):
            check(file, model, SIZE)


# other parts, sizes, runtimes and types


def test_features_of_any_size(written, tmp_path):
    path, model = written()
    file = tmp_path / "net.onnx"
    done = export(RESNET, file, task="embed", dynamic_size=True, checkpoint_path=path)
    assert done.largest_difference < 1e-4
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,), (features,) = session.get_inputs(), session.get_outputs()
    assert image.shape == ["batch", 3, "height", "width"]
    assert (features.name, features.shape) == ("features", ["batch", 64])
    x = steady_pictures(model, (3, 45, 61), 2)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
    found = torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32 sums in another order
    assert properties(file)["task"] == "embed"
    assert properties(file)["size"] == "dynamic"


def test_a_network_that_fixes_its_size_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 96, 4)).eval()
    with pytest.raises(UsageError, match="size"):
        trace(model, SIZE, dynamic_size=True)


def test_openvino(written, tmp_path):
    openvino = pytest.importorskip("openvino")
    path, model = written()
    done = export(RESNET, tmp_path / "net.xml", format="openvino", checkpoint_path=path)
    assert done.largest_difference < 1e-4
    assert {entry.name for entry in tmp_path.iterdir()} == {"net.xml", "net.bin"}
    assert done.bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    read = openvino.Core().read_model(tmp_path / "net.xml")
    assert read.get_rt_info(["zoo", "name"]).value == f"{RESNET}.c10"
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="cannot be opened"):
        check(tmp_path / "net.xml", model, SIZE)


@pytest.mark.parametrize(("format", "dtype"), [("onnx", "int8"), ("torch-export", "bfloat16")])
def test_narrower_numbers(format, dtype, data_root, tmp_path):
    float32 = tmp_path / f"float{FORMATS[format]}"
    export(RESNET, float32, format=format)
    file = tmp_path / f"net{FORMATS[format]}"
    done = export(RESNET, file, format=format, dtype=dtype, data="cifar10", data_root=data_root, max_drop=20)
    assert done.bytes < 0.8 * float32.stat().st_size
    assert done.accuracy.count == 40
    assert done.accuracy.agreement > 60  # noise on flat colours, where two classes are often close
    found = properties(file) if format == "onnx" else metadata(file)
    assert found["dtype"] == dtype


def test_narrower_numbers_that_cost_too_much_are_refused(data_root):
    model = zoo.create_model(RESNET, pretrained=True).eval()
    card = zoo.card(RESNET)
    test = pictures_of(card, "cifar10", "test", data_root)
    with torch.no_grad():
        x = torch.stack([Preprocess(card.input)(test.image(i)) for i in range(len(test))])
        own = Samples(test.read, test.rows, model(x).argmax(1), test.names)
        assert compare_accuracy(model, model, card, "own", own, max_drop=0).reduced == 100
        with pytest.raises(IntegrityError, match=r"is right on 0.00% of own, the network on 100.00%"):
            compare_accuracy(lambda x: -model(x), model, card, "own", own, max_drop=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "a set has to say how much"),
        ({"dtype": "int8", "data": "cifar10", "task": "embed"}, "a set has to say how much"),
        ({"dtype": "bfloat16"}, "no bfloat16 in onnx files"),
        ({"task": "dream"}, "cannot be exported to dream"),
    ],
)
def test_bad_parts_and_types(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        export(RESNET, tmp_path / "net.onnx", **options)


# what is refused


def test_one_wrong_sign_among_the_weights_is_seen(exported, written, tmp_path):
    proto = onnx.load(exported["onnx"])
    weight = next(entry for entry in proto.graph.initializer if entry.name == "layer2.1.conv1.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 1, 1] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.raises(IntegrityError, match="differ from the network's by"):
        check(tmp_path / "net.onnx", written()[1], SIZE)


@pytest.mark.parametrize("format", BOTH)
def test_files_of_other_networks_and_no_files_are_refused(format, exported, written, tmp_path):
    with pytest.raises(IntegrityError, match="differ from the network's"):
        check(exported[format], written(act_bits=32)[1], SIZE)
    with pytest.raises(IntegrityError, match=r"\(1, 10\) for a batch of 1, the network \(1, 7\)"):
        check(exported[format], written(act_bits=32, num_classes=7)[1], SIZE)
    cut = tmp_path / exported[format].name
    cut.write_bytes(exported[format].read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="cannot be opened"):
        check(cut, written()[1], SIZE)


def test_not_a_number_is_a_difference():
    model = nn.Flatten()
    with pytest.raises(IntegrityError, match="by nan"):
        compare_outputs(lambda x: model(x) * float("nan"), model, torch.ones(1, 3, 2, 2), (1,))


def test_a_network_whose_signs_hang_on_rounding_cannot_be_checked(written):
    _, model = written()
    with torch.no_grad():  # what ReLU cut comes out as -10000 + 10000, which is rounding and nothing else
        model.bn1.running_mean.fill_(1e4)
        model.bn1.running_var.fill_(1)
        model.bn1.weight.fill_(1)
        model.bn1.bias.fill_(1e4 / (1 + model.bn1.eps) ** 0.5)
    with pytest.raises(UsageError, match="0 keep all activations clear of 0"):
        steady_pictures(model, SIZE, 1)


def test_a_mismatch_leaves_the_old_file_and_nothing_beside_it(written, tmp_path, monkeypatch):
    class Faulty(onnxruntime.InferenceSession):
        def run(self, *args, **options):
            return [value + 0.01 for value in super().run(*args, **options)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Faulty)
    (tmp_path / "net.onnx").write_text("old")
    args = ["export", RESNET, "--checkpoint", str(written()[0]), "--out", str(tmp_path / "net.onnx")]
    result = CliRunner().invoke(commands(), args)
    assert isinstance(result.exception, IntegrityError)
    assert result.exception.exit_code == 4
    assert (tmp_path / "net.onnx").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("out", "options", "error", "message"),
    [
        ("net.onnx", {"format": "tflite"}, UsageError, "no export format 'tflite'"),
        ("net.pt2", {}, UsageError, "is not called .onnx"),
        ("net.onnx", {"format": "torch-export"}, UsageError, "is not called .pt2"),
        ("net.onnx", {"opset": 9}, UsageError, "opset 9"),
        ("net.pt2", {"format": "torch-export", "opset": 20}, UsageError, "only ONNX has opsets"),
        ("nowhere/net.onnx", {}, InputError, "no folder that takes files"),
        ("folder.onnx", {}, InputError, "is a folder"),
        ("net.onnx", {}, WeightsUnavailable, "no published weights"),
    ],
)
def test_bad_calls(out, options, error, message, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error, match=message):
        export("reste_resnet18_cifar", tmp_path / out, **options)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UnknownName):
        export("resnet51", tmp_path / out, **options)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # how Python spells that it is not there
    with pytest.raises(UsageError, match="needs onnxruntime") as caught:
        export(RESNET, tmp_path / "net.onnx")
    assert caught.value.hint == "pip install 'zoo[export]'"


@pytest.mark.parametrize(("task", "output"), [("video", "prototypes"), ("text", "vector")])
def test_the_two_encoders_of_a_retrieval_network_have_a_file_each(task, output, tmp_path):
    path = tmp_path / "net.onnx"
    done = export("tmvm_tiny", path, task=task)
    assert done.batch_sizes == (1, 2, 5)
    assert done.largest_difference < 1e-5  # unit vectors, float32 sums in another order
    network = zoo.create_model("tmvm_tiny", pretrained=True).eval()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if task == "video":
            given = torch.randn(3, 4, 3, 64, 64, generator=random)
            expected = network.encode_video(given).vectors
        else:
            given = torch.tensor([[5, 9, 3, 0], [7, 2, 0, 0]])
            given = torch.nn.functional.pad(given, (0, network.max_words - 4))
            expected = network.encode_text(given, given != 0)
            shorter = network.encode_text(given[:, :4], given[:, :4] != 0)
            torch.testing.assert_close(expected, shorter, rtol=0, atol=1e-5)  # padding changes nothing
    found = session.run([output], {session.get_inputs()[0].name: given.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)
    facts = properties(path)
    assert facts["task"] == task
    assert ("mean" in facts) == (task == "video"), "words have no preprocessing in pixels"
    assert ("vocabulary" in facts) == (task == "text")


def test_a_file_has_its_own_encoder_alone(tmp_path):
    network = zoo.create_model("tmvm_tiny", pretrained=True)
    done = export("tmvm_tiny", tmp_path / "net.pt2", task="text", format="torch-export")
    own = 4 * sum(p.numel() for name, p in network.named_parameters() if name.startswith(("text_model", "txt_proj")))
    assert own < done.bytes < own + 300_000  # the graph and its facts
    assert hasattr(network, "video_model")


def test_an_encoder_has_to_be_named(tmp_path):
    with pytest.raises(UsageError, match="two encoders") as caught:
        export("tmvm_tiny", tmp_path / "net.onnx")
    assert caught.value.hint == "--task video or text"
    with pytest.raises(UsageError, match="only the size of single pictures"):
        export("tmvm_tiny", tmp_path / "net.onnx", task="video", dynamic_size=True)
    with pytest.raises(UsageError, match="cannot be exported") as caught:
        export("pyramid_texture_filter", tmp_path / "net.onnx")
    assert "another task" in caught.value.hint


def test_other_channels_than_the_cards_have_no_preprocessing(written, tmp_path):
    with pytest.raises(UsageError, match="takes 1 channels"):
        export(RESNET, tmp_path / "net.onnx", checkpoint_path=written(in_chans=1)[0])


def test_facts_without_a_binary_layer_speak_of_none():
    facts = facts_of(zoo.card(RESNET), nn.Linear(2, 10))
    assert "act_bits" not in facts


# the command


def test_the_command_prints_data_only(written, tmp_path):
    args = ["export", RESNET, "--checkpoint", str(written()[0]), "--out", str(tmp_path / "net.onnx"), "--json"]
    result = CliRunner().invoke(commands(), args)
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert found["batch_sizes"] == [1, 2, 5]
    assert found["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert result.stderr == ""


def test_the_command_prints_the_path(written, tmp_path):
    file = tmp_path / "net.pt2"
    args = ["export", RESNET, "--checkpoint", str(written()[0]), "--format", "torch-export", "--out", str(file)]
    result = CliRunner().invoke(commands(), args)
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{file}\n"
    assert "it differs from the network by 0" in result.stderr


def test_each_modality_has_a_file_of_its_own(tmp_path):
    network = zoo.create_model("sgiel_pico", pretrained=True).eval()
    image = torch.rand(3, 3, 96, 48, generator=torch.Generator().manual_seed(0))
    for modality in ("visible", "infrared"):
        path = tmp_path / f"{modality}.pt2"
        export("sgiel_pico", path, format="torch-export", modality=modality)
        with torch.no_grad():
            found = torch.export.load(path).module()(image)
            torch.testing.assert_close(found, network(image, modality), rtol=1e-5, atol=1e-6)
        facts = metadata(path)
        assert (facts["modality"], facts["crop_mode"]) == (modality, "squash")
    with pytest.raises(UsageError, match="visible or infrared"):
        export("sgiel_pico", tmp_path / "both.onnx")
    with pytest.raises(UsageError, match="knows no modalities"):
        export("reste_resnet20_cifar", tmp_path / "net.onnx", modality="visible")
