"""timm and torch.hub see our names, whichever package comes first. Processes of their own: imports happen once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHECK = """
assert timm.is_model("reste_resnet20_cifar") and timm.is_model("reste_vgg_small")
assert "reste_resnet20_cifar" in timm.list_models("reste*")
assert timm.list_models("resnet18") == ["resnet18"]  # timm's own are untouched
model = timm.create_model("reste_resnet20_cifar", num_classes=7)
assert model.num_classes == 7 and type(model).__name__ == "ReSTEResNet"
assert timm.create_model("reste_resnet20_cifar.c10_w1a32").layer1[0].conv1.act_bits == 32
"""


def run(program, *options):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *options, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import zoo; import timm",
        "import timm; import zoo",
        pytest.param("from timm.models import resnet; import zoo, timm", marks=pytest.mark.slow),
        pytest.param("import zoo; from timm.models import resnet; import timm", marks=pytest.mark.slow),
        pytest.param("import zoo.models.reste; import timm", marks=pytest.mark.slow),
        "import zoo, importlib.util; importlib.util.find_spec('timm'); importlib.util.find_spec('timm'); import timm",
        pytest.param("import zoo; zoo.create_model('reste_resnet20_cifar'); import timm", marks=pytest.mark.slow),
    ],
)
def test_any_order_of_imports(imports):
    run(f"{imports}\n{CHECK}")


def test_zoo_alone_imports_no_timm_and_leaves_one_finder():
    count = "sum(type(finder).__name__ == '_AfterTimm' for finder in sys.meta_path)"
    program = f"import sys, zoo, importlib; importlib.reload(zoo)\nprint('timm' in sys.modules, {count})"
    assert run(program).split() == ["False", "1"]


def test_the_finder_is_gone_once_timm_is_there():
    assert (
        run("import sys, zoo, timm\nprint(any(type(f).__name__ == '_AfterTimm' for f in sys.meta_path))").strip()
        == "False"
    )


def test_without_timm_names_still_work():
    program = "import sys; sys.modules['timm'] = None\nimport zoo; print(zoo.card('reste_resnet20').name)"
    assert run(program).strip() == "reste_resnet20_cifar.c10"


class TestInOneProcess:
    """Where the order does not matter."""

    def test_an_unknown_tag_in_timms_words(self):
        import timm

        import zoo  # noqa: F401

        with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
            timm.create_model("reste_resnet20_cifar.nope")

    def test_untrained_cards_are_shown_as_such(self):
        import timm

        import zoo

        available = {card.architecture for card in map(zoo.card, zoo.list_models(pretrained=True))}
        listed = {
            name.partition(".")[0]
            for name in timm.list_pretrained("reste_resnet18*") + timm.list_pretrained("reste_vgg*")
        }
        assert listed <= available

    def test_the_default_tag_is_the_cards(self):
        import timm

        import zoo
        from zoo.registry.timm_cfg import IN_TIMM

        for name in zoo.list_models():
            card = zoo.card(name)
            if card.default and card.task in IN_TIMM:
                assert timm.get_pretrained_cfg(card.architecture).tag == card.tag

    def test_own_weights_as_a_dict(self, tmp_path):
        import timm
        import torch
        from safetensors.torch import save_file

        import zoo

        made = zoo.create_model("reste_resnet20_cifar", num_classes=5)
        save_file(made.state_dict(), tmp_path / "model.safetensors")
        cfg = {
            "file": str(tmp_path / "model.safetensors"),
            "num_classes": 5,
            "input_size": (3, 32, 32),
            "classifier": "fc",
        }
        model = timm.create_model("reste_resnet20_cifar", pretrained=True, pretrained_cfg=cfg)
        assert torch.equal(model.fc.weight, made.fc.weight)
        overlay = timm.create_model(
            "reste_resnet20_cifar", pretrained=True, pretrained_cfg_overlay={**cfg, "num_classes": 5}, num_classes=5
        )
        assert torch.equal(overlay.fc.weight, made.fc.weight)

    @pytest.mark.parametrize(
        "name", ["reste_resnet20_cifar", "reste_resnet20_cifar.c10_w1a32", "reste_vgg_small", "pslt_pico"]
    )
    def test_a_saved_folder_comes_back(self, tmp_path, name):
        import timm
        import torch
        from timm.models import save_for_hf

        import zoo

        made = zoo.create_model(name, num_classes=4).eval()
        save_for_hf(made, tmp_path, safe_serialization=True)
        model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(model(image), made(image), rtol=0, atol=0)
        assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2).num_classes == 2

    @pytest.mark.parametrize(
        ("change", "error", "said"),
        [
            (lambda folder: edit(folder, model_args={"num_classes": 10**12}), "IntegrityError", "4 num_classes"),
            (lambda folder: edit(folder, num_classes=10**12, model_args={}), "IntegrityError", "4 num_classes"),
            (lambda folder: edit(folder, model_args={"depths": [10**9, 3, 3]}), "ValueError", "more than"),
            (lambda folder: edit(folder, architecture="reste_vggsmall_cifar"), "IntegrityError", "does not fit"),
            (lambda folder: cut(folder), "IntegrityError", "its header promises"),
            (lambda folder: pickled(folder), "WeightsUnavailable", "there is no file"),
        ],
        ids=["classes", "classes alone", "depths", "another network", "cut", "a pickle"],
    )
    def test_a_folder_that_is_not_what_it_says(self, tmp_path, change, error, said):
        """Refused before memory is taken; no pickle is read, though timm would."""
        import timm
        from timm.models import save_for_hf

        import zoo

        save_for_hf(zoo.create_model("reste_resnet20_cifar", num_classes=4), tmp_path, safe_serialization=True)
        change(tmp_path)
        with pytest.raises(Exception, match=said) as caught:
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
        assert type(caught.value).__name__ == error


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(folder):
    import torch
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


def test_torch_hub_from_the_checkout():
    program = """
import torch
model = torch.hub.load(".", "reste_resnet20_cifar", source="local", num_classes=3)
assert model.num_classes == 3
assert torch.hub.load(".", "reste_vgg_small", source="local").num_classes == 10
assert type(torch.hub.load(".", "pslt_tiny", source="local")).__name__ == "PSLT"
try:
    torch.hub.load(".", "reste_resnet18_cifar", source="local", pretrained=True)
except Exception as error:
    print(type(error).__name__)
"""
    assert run(program).strip() == "WeightsUnavailable"


def test_torch_hub_lists_architectures_and_aliases_only():
    program = (
        "import hubconf; print(*[n for n in dir(hubconf) if not n.startswith('_') and callable(getattr(hubconf, n))])"
    )
    listed = run(program).split()
    names = "import zoo\nfor n in zoo.list_models(): print(zoo.card(n).architecture, *zoo.card(n).aliases)"
    assert sorted(listed) == sorted(set(run(names).split()))
