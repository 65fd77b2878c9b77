"""The wheel, installed somewhere else, has its cards, labels, recipes and weights; the checkout serves torch.hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with the package from a wheel built here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def run(code, site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_what_the_checkout_holds(installed, tmp_path):
    code = (
        "import json, zoo; from zoo.registry.labels import label_names; from zoo.train.recipe import recipe_names\n"
        "print(json.dumps([zoo.__file__, zoo.list_models(), len(label_names('imagenet-1k')), recipe_names()]))"
    )
    file, names, labels, recipes = json.loads(run(code, installed, tmp_path))
    assert Path(file).is_relative_to(installed)
    assert names == zoo.list_models()
    assert labels == 1000
    assert "reste_resnet20_cifar" in recipes


def test_wheel_predicts_offline(installed, tmp_path):
    code = (
        "import numpy, zoo\n"
        "for name in zoo.list_models(task='classify', pretrained=True):\n"
        "    print(name, zoo.pipeline(name, device='cpu')(numpy.zeros((32, 32, 3), numpy.uint8)).labels[0])"
    )
    lines = run(code, installed, tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == zoo.list_models(task="classify", pretrained=True)
    assert "reste_resnet20_cifar.c10" in zoo.list_models(pretrained=True)


def test_wheel_has_types_and_a_licence(installed):
    assert (installed / "zoo" / "py.typed").exists()
    assert list(installed.glob("zoo-*.dist-info/licenses/LICENSE"))


def test_public_names_are_those_listed():
    names = ["card", "create_model", "list_models", "metrics", "optimize", "pipeline", "texture_filter"]
    assert sorted(zoo.__all__) == names
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoo.nothing
