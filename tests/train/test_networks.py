"""First weights, teachers, and names that are none."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import zoo
from zoo.errors import UnknownName, UsageError
from zoo.train.course import Place
from zoo.train.methods import new_method
from zoo.train.networks import Teacher, input_of, new_network, normalise
from zoo.train.recipe import Data, Distill, Recipe, Schedule, load_recipe

CPU = torch.device("cpu")
ARCH = "reste_resnet20_cifar"


def recipe(**changes):
    return Recipe(**{"model": ARCH, "data": Data(name="cifar10"), "schedule": Schedule(epochs=1), **changes})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "first.safetensors"
    save_file(zoo.create_model(ARCH).state_dict(), path)
    return path


def test_first_weights_from_a_file_with_a_fresh_head(weights):
    same, _ = new_network(recipe(init=str(weights)), {"num_classes": 10})
    other, args = new_network(recipe(init=str(weights)), {"num_classes": 3})
    assert args["num_classes"] == 3
    assert other.fc.out_features == 3
    for key, value in same.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(value, other.state_dict()[key]), key


def test_first_weights_from_a_checkpoint():
    network, _ = new_network(recipe(init=f"{ARCH}.c10"), {"num_classes": 10})
    known = zoo.create_model(ARCH, pretrained=True).state_dict()
    assert all(torch.equal(value, known[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "timm:resnet19"}, UnknownName, "timm has no model 'resnet19'"),
        ({"model": "reste_resnet21"}, UnknownName, "no model"),
        ({"init": "reste_vggsmall_cifar"}, UsageError, "is another network than reste_resnet20_cifar"),
        ({"model_args": {"depth": 3}}, UsageError, "depth"),
    ],
)
def test_what_does_not_exist_is_named(changes, error, says):
    with pytest.raises(error, match=says):
        new_network(recipe(**changes), {"num_classes": 10})


def test_timms_preprocessing():
    found = input_of("timm:test_resnet")
    assert found.size == (3, 160, 160)
    assert found.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_lesson_is_the_weighted_sum_of_label_and_teacher(kind, weights):
    """Against the equation, with a teacher whose preprocessing is another one than the pupil's."""
    wanted = Distill(teacher=ARCH, checkpoint=str(weights), weight=0.3, temperature=2.0, kind=kind)
    pupil_input = input_of("timm:test_resnet")
    pupil, _ = new_network(recipe(model="timm:test_resnet"), {"num_classes": 10})
    pupil.eval()
    raw, labels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([1, 2, 3, 4])
    x, theirs = (normalise(raw, found, False) for found in (pupil_input, zoo.card(ARCH).input))
    loss = Teacher(wanted, new_method("plain"), 10, pupil_input, CPU).loss(pupil, x, labels)
    said = pupil(x)
    with torch.inference_mode():
        told = zoo.create_model(ARCH, checkpoint_path=weights).eval()(theirs)
    if kind == "hard":
        lesson = F.cross_entropy(said, told.argmax(1))
    else:
        p, q = (told / 2).softmax(1), (said / 2).softmax(1)
        lesson = 4 * (p * (p / q).log()).sum() / 4  # T^2 times the mean over four pictures
    # the teacher's pictures are turned back from the pupil's normalisation, which rounds
    torch.testing.assert_close(loss, 0.7 * F.cross_entropy(said, labels) + 0.3 * lesson, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_timms_that_was_trained_on_the_data(tmp_path):
    """It has the data's classes, and is shown the only size that it takes."""
    name = "timm:test_vit"
    network, _ = new_network(recipe(model=name), {"num_classes": 5})
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    wanted = Distill(teacher=name, checkpoint=str(tmp_path / "teacher.safetensors"), weight=1.0)
    teacher = Teacher(wanted, new_method("plain"), 5, input_of(ARCH), CPU)
    pupil = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    x = torch.rand(2, 3, 32, 32)
    assert teacher.loss(pupil, x, torch.tensor([1, 2])).isfinite()
    torch.testing.assert_close(teacher.model.state_dict()["head.weight"], network.state_dict()["head.weight"])
    with pytest.raises(UsageError, match="knows 5 classes, the data has 4"):
        Teacher(wanted, new_method("plain"), 4, input_of(ARCH), CPU)


def test_a_teacher_of_other_classes(weights):
    wanted = Distill(teacher=ARCH, checkpoint=str(weights))
    with pytest.raises(UsageError, match="knows 10 classes, the data has 5"):
        Teacher(wanted, new_method("plain"), 5, input_of(ARCH), CPU)


@pytest.mark.parametrize(
    ("recipe", "model", "hint"),
    [
        ("reste_resnet20_cifar", "tmvm_tiny", "classify"),
        ("metric_imbalance", "stvgformer_tiny", "classify"),
        ("stvgformer_tiny", "sgiel_pico", "ground"),
        ("tmvm_tiny", "pslt_pico", "retrieve"),
        ("sgiel_pico_people", "pslt_pico", "reid"),
    ],
)
def test_networks_of_other_tasks_are_refused_before_any_data(recipe, model, hint, tmp_path):
    wanted = load_recipe(recipe, (f"model={model}",))
    method = new_method(wanted.method, **wanted.method_args)
    with pytest.raises(UsageError, match=f"^{model}.* is made to ") as refused:
        method.course(wanted, Place(tmp_path, CPU))
    assert refused.value.hint == f"zoo list --task {hint}"
