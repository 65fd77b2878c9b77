"""The door: names, arguments, files of every sort of damage. A file is loaded whole or refused."""

import hashlib
import json
import subprocess
import sys

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import settings
from zoo.build import builder_of
from zoo.errors import CardError, IntegrityError, UnknownName, WeightsUnavailable
from zoo.hub.checkpoint import facts_for
from zoo.layers.packing import FORMAT, pack
from zoo.registry import names
from zoo.registry.card import read_card

ARCHITECTURE = "reste_resnet20_cifar"


def shaken(seed=0, **args):
    """A network whose norms have statistics, so that its outputs depend on every tensor."""
    torch.manual_seed(seed)
    model = zoo.create_model(ARCHITECTURE, **args)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.ndim:
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return model.eval()


def write(path, model, layout="float", state=None, **args):
    save_file(state or model.state_dict(), path, facts_for(ARCHITECTURE, args, layout))
    return path


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(a, b, image):
    with torch.no_grad():
        torch.testing.assert_close(a(image), b(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", [ARCHITECTURE, "reste_resnet20_cifar.c10", "reste_resnet20", "reste_resnet20_cifar_c10"]
)
def test_every_spelling_builds(name):
    assert zoo.create_model(name).pretrained_cfg["tag"] == "c10"


def test_timms_conventions():
    model = zoo.create_model("reste_resnet18_cifar", num_classes=7, in_chans=1, act_bits=None)
    assert (model.num_classes, model.conv1.in_channels) == (7, 1)
    features = zoo.create_model("reste_resnet18_cifar", features_only=True, out_indices=(0, 2))
    assert features.feature_info.channels() == [64, 256]
    with pytest.raises(TypeError, match="widht"):
        zoo.create_model(ARCHITECTURE, widht=3)


def test_a_cards_arguments_apply():
    assert zoo.create_model("reste_resnet20_cifar.c10_w1a32").layer1[0].conv1.act_bits == 32
    assert zoo.create_model("reste_resnet20_cifar.c10_w1a32", act_bits=1).layer1[0].conv1.act_bits == 1


def test_an_unknown_name_and_unpublished_weights():
    with pytest.raises(UnknownName):
        zoo.create_model("resnet50")
    with pytest.raises(WeightsUnavailable):
        zoo.create_model("reste_resnet18_cifar", pretrained=True)


def test_a_file_brings_its_arguments(tmp_path, image):
    made = shaken(num_classes=7, act_bits=32)
    path = write(tmp_path / "a.safetensors", made, num_classes=7, act_bits=32)
    model = zoo.create_model(ARCHITECTURE, checkpoint_path=path).eval()
    assert model.layer1[0].conv1.act_bits == 32
    assert model.pretrained_cfg["num_classes"] == 7
    same(model, made, image)
    assert zoo.create_model(ARCHITECTURE, checkpoint_path=path, act_bits=1).layer1[0].conv1.act_bits == 1


def test_a_file_without_facts_shows_its_head_and_channels(tmp_path):
    made = shaken(num_classes=4, in_chans=1)
    save_file(made.state_dict(), tmp_path / "a.safetensors")
    model = zoo.create_model(ARCHITECTURE, checkpoint_path=str(tmp_path / "a.safetensors")).eval()
    same(model, made, torch.rand(1, 1, 32, 32))


def test_another_class_count_gets_a_fresh_head_and_the_files_body(tmp_path):
    made = shaken()
    path = write(tmp_path / "a.safetensors", made, num_classes=10)
    model = zoo.create_model(ARCHITECTURE, checkpoint_path=path, num_classes=3)
    assert model.fc.weight.shape == (3, 64)
    assert torch.equal(model.layer3[2].conv2.weight, made.layer3[2].conv2.weight)
    assert torch.equal(model.head_norm.running_var, made.head_norm.running_var)
    one = zoo.create_model(ARCHITECTURE, checkpoint_path=path, in_chans=1)
    torch.testing.assert_close(one.conv1.weight, made.conv1.weight.sum(1, keepdim=True))
    pooled = zoo.create_model(ARCHITECTURE, checkpoint_path=path, num_classes=0)
    assert pooled(torch.rand(2, 3, 32, 32)).shape == (2, 64)


def test_features_of_a_file(tmp_path, image):
    made = shaken()
    path = write(tmp_path / "a.safetensors", made)
    model = zoo.create_model(ARCHITECTURE, checkpoint_path=path, features_only=True).eval()
    with torch.no_grad():
        for ours, theirs in zip(model(image), made.forward_intermediates(image, intermediates_only=True), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_packed_file(tmp_path, image):
    made = shaken()
    path = write(tmp_path / "a.safetensors", made, FORMAT, pack(made, torch.float32))
    assert path.stat().st_size < 70_000
    with torch.no_grad():
        difference = zoo.create_model(ARCHITECTURE, checkpoint_path=path).eval()(image) - made(image)
    assert float(difference.abs().max()) < 1e-4  # the scale is rounded once more


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_load(tmp_path, dtype):
    made = shaken()
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.state_dict().items()}
    model = zoo.create_model(ARCHITECTURE, checkpoint_path=write(tmp_path / "a.safetensors", made, state=state))
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


def edit(**changes):
    """A state with tensors exchanged, or (None) left out."""

    def apply(state):
        state = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
        return {key: value for key, value in state.items() if value is not None}

    return apply


DAMAGE = {
    "missing": (edit(layer1__0__conv1__weight=None), "1 missing (layer1.0.conv1.weight)"),
    "missing head": (edit(fc__weight=None, fc__bias=None), "2 missing (fc.weight, fc.bias)"),
    "unexpected": (edit(extra=torch.zeros(1)), "1 unexpected (extra)"),
    "another shape": (edit(bn1__weight=torch.ones(17)), "bn1.weight (17,) for (16,)"),
    "not a number": (edit(bn1__weight=torch.full((16,), torch.nan)), "1 not finite (bn1.weight)"),
    "infinite": (edit(fc__bias=torch.full((10,), torch.inf)), "1 not finite (fc.bias)"),
    "integers": (edit(bn1__weight=torch.ones(16, dtype=torch.int32)), "bn1.weight torch.int32"),
    "complex": (edit(bn1__weight=torch.ones(16, dtype=torch.complex64)), "bn1.weight torch.complex64"),
}


@pytest.mark.parametrize("wanted", [{}, {"num_classes": 3}, {"features_only": True}], ids=str)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_never_loaded_in_part(tmp_path, kind, wanted):
    change, said = DAMAGE[kind]
    made = shaken()
    path = write(tmp_path / "a.safetensors", made, state=change(made.state_dict()), num_classes=10)
    with pytest.raises(IntegrityError) as caught:
        zoo.create_model(ARCHITECTURE, checkpoint_path=path, **wanted)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 4


def test_many_faults_are_told_by_three():
    model = shaken()
    from zoo.build import compare

    faults = str(compare({}, model))
    assert faults.startswith(f"{len(model.state_dict())} missing (")
    assert faults.count(",") == 3
    assert faults.endswith(", ...)")


def test_a_file_of_another_network(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(zoo.create_model("reste_vggsmall_cifar").state_dict(), path, facts_for("reste_vggsmall_cifar", {}))
    with pytest.raises(IntegrityError, match="is a reste_vggsmall_cifar, not a reste_resnet20_cifar"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=path)
    save_file(load_file(path), path)  # without saying so
    with pytest.raises(IntegrityError, match="does not fit"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=path)


def test_arguments_that_change_the_network_are_compared_too(tmp_path):
    path = write(tmp_path / "a.safetensors", shaken())
    with pytest.raises(IntegrityError, match="unexpected"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=path, depths=(3, 3, 2), num_classes=3)


@pytest.mark.parametrize(
    "args",
    [
        {"pretrained_cfg": {}},
        {"features_only": True},
        {"pretrained": True},
        {"unknown": 1},
        {"act_bits": 3},
        [],
        {"depths": {}},
        {"depths": [10**9, 3, 3]},
        {"widths": [10**18, 32, 64]},
        {"num_classes": 10**12},
    ],
    ids=str,
)
def test_a_files_arguments_are_not_trusted(tmp_path, args):
    path = tmp_path / "a.safetensors"
    metadata = {"zoo": json.dumps({"architecture": ARCHITECTURE, "builder_args": args})}
    save_file(shaken().state_dict(), path, metadata)
    with pytest.raises(IntegrityError, match=r"a\.safetensors"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=path)


def test_formats_of_the_future_and_damaged_packed_files(tmp_path):
    made = shaken()
    state = pack(made, torch.float32)
    name = "layer1.0.conv1"
    for change, said in [
        ({f"{name}.weight_packed": state[f"{name}.weight_packed"][..., :1]}, "packed weights"),
        ({f"{name}.weight_packed": state[f"{name}.weight_packed"][:8]}, "(8, 16, 3, 3)"),
        ({f"{name}.weight_packed": state[f"{name}.weight_packed"].float()}, "packed weights"),
        ({f"{name}.weight_scale": torch.tensor([torch.nan])}, "one positive number"),
        ({f"{name}.weight_scale": torch.tensor([-1.0])}, "one positive number"),
        ({"extra.weight_packed": torch.zeros(1, dtype=torch.uint8)}, "extra.weight_packed"),
    ]:
        path = write(tmp_path / "a.safetensors", made, FORMAT, {k: v.contiguous() for k, v in (state | change).items()})
        with pytest.raises(IntegrityError) as caught:
            zoo.create_model(ARCHITECTURE, checkpoint_path=path)
        assert said in caught.value.message
        assert "\n" not in caught.value.message
    with pytest.raises(IntegrityError, match="reste-packed-v2"):
        zoo.create_model(
            ARCHITECTURE, checkpoint_path=write(tmp_path / "b.safetensors", made, "reste-packed-v2", state)
        )


def test_a_cut_file_and_a_pickle(tmp_path):
    made = shaken()
    path = write(tmp_path / "a.safetensors", made)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntegrityError, match="its header promises"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=path)
    torch.save(made.state_dict(), path)
    with pytest.raises(IntegrityError, match="pickle") as caught:
        zoo.create_model(ARCHITECTURE, checkpoint_path=path)
    assert "zoo convert" in caught.value.hint
    whole = write(tmp_path / "weights.bin", made)
    with pytest.raises(IntegrityError, match="not called"):
        zoo.create_model(ARCHITECTURE, checkpoint_path=whole)


def test_loading_leaves_the_random_state_to_the_network_alone(tmp_path):
    path = write(tmp_path / "a.safetensors", shaken())
    torch.manual_seed(5)
    zoo.create_model(ARCHITECTURE)
    plain = torch.get_rng_state()
    torch.manual_seed(5)
    zoo.create_model(ARCHITECTURE, checkpoint_path=path)
    assert torch.equal(torch.get_rng_state(), plain)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """The default ResNet-20 as a bundled starter; its network."""
    made = shaken()
    weights, cards = tmp_path / "weights", tmp_path / "cards"
    weights.mkdir()
    cards.mkdir()
    path = write(weights / "reste_resnet20_cifar.c10.safetensors", made, num_classes=10)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in names.list_names():
        text = (settings.card_folder() / f"{name}.md").read_text()
        if name == path.stem:
            front, _, rest = text.partition("weights:")
            there = f"weights: {{status: bundled, bytes: {path.stat().st_size}, sha256: '{digest}'}}"
            text = f"{front}{there}{rest[rest.index(chr(10)) :]}"
        (cards / f"{name}.md").write_text(text)
    monkeypatch.setattr(settings, "card_folder", lambda: cards)
    monkeypatch.setattr(settings, "bundled_weights", lambda: weights)
    names.forget()
    yield made
    names.forget()


def test_pretrained_takes_the_bundled_file(bundled, image):
    same(zoo.create_model(ARCHITECTURE, pretrained=True).eval(), bundled, image)
    assert zoo.create_model(ARCHITECTURE, pretrained=True, num_classes=7).fc.out_features == 7


def test_the_nearest_starter_is_suggested(bundled):
    with pytest.raises(WeightsUnavailable) as caught:
        zoo.create_model("reste_resnet18_cifar", pretrained=True)
    assert "use the starter reste_resnet20_cifar.c10" in caught.value.hint


def test_timm_takes_the_bundled_file(bundled, image):
    import timm

    same(timm.create_model("reste_resnet20_cifar.c10", pretrained=True).eval(), bundled, image)
    same(timm.create_model("reste_resnet20", pretrained=True).eval(), bundled, image)
    fresh = timm.create_model(ARCHITECTURE, pretrained=True, num_classes=7)
    assert fresh.fc.weight.shape == (7, 64)
    assert torch.equal(fresh.conv1.weight, bundled.conv1.weight)


def test_a_builder_that_is_not_there():
    card = msgspec.structs.replace(zoo.card(ARCHITECTURE), builder=f"zoo.models.nowhere:{ARCHITECTURE}")
    with pytest.raises(CardError, match="cannot be imported"):
        builder_of(card)


def test_public_names_are_those_listed():
    program = (
        "import sys, zoo\n"
        "assert set(zoo._PUBLIC) == set(zoo.__all__), (zoo._PUBLIC, zoo.__all__)\n"
        "assert set(zoo.__all__) <= set(dir(zoo))\n"
        "assert not {'torch', 'timm', 'numpy', 'PIL', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "try: zoo.nonsense\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has no attribute 'nonsense'" in done.stdout
    for name in zoo.__all__:
        assert getattr(zoo, name) is not None


def test_read_card_is_what_the_door_reads():
    path = settings.card_folder() / "reste_resnet20_cifar.c10.md"
    assert read_card(path) == zoo.card(ARCHITECTURE)
