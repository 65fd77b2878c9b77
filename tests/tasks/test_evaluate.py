"""Evaluation against a loop over the bare network, and what it says of sets and folders that do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import zoo
from zoo.data.datasets import load_pictures
from zoo.errors import InputError, UnknownName, UsageError
from zoo.hub.checkpoint import facts_for
from zoo.tasks.evaluate import Check, evaluate, verify

ARCH = "reste_resnet20_cifar"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(zoo.create_model(ARCH).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def measured(data_root, checkpoint):
    return evaluate(ARCH, "cifar10", root=data_root, checkpoint_path=checkpoint, device="cpu", batch_size=16)


def test_equals_a_loop_over_the_network(measured, data_root, checkpoint):
    model = zoo.create_model(ARCH, checkpoint_path=checkpoint).eval()
    pictures = load_pictures("cifar10", "test", data_root)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (zoo.card(ARCH).input.mean, zoo.card(ARCH).input.std))
    confusion, top5 = np.zeros((10, 10), np.int64), 0
    for image, label in zip(pictures.images, pictures.labels.tolist(), strict=True):
        with torch.inference_mode():
            order = model(((image.permute(2, 0, 1) / 255 - mean) / std)[None])[0].argsort(descending=True)
        confusion[label, order[0]] += 1
        top5 += label in order[:5]
    assert np.array_equal(measured.confusion, confusion)
    assert measured.top5_hits == top5
    assert measured.top1 == pytest.approx(100 * np.trace(confusion) / 40)
    low, high = measured.interval
    assert low <= measured.top1 <= high
    assert measured.to_dict()["pictures"] == len(measured) == 40


def test_folder_of_class_folders_equals_the_set(measured, data_root, checkpoint, tmp_path):
    pictures = load_pictures("cifar10", "test", data_root)
    for i, (image, label) in enumerate(zip(pictures.images, pictures.labels.tolist(), strict=True)):
        place = tmp_path / pictures.names[label].upper()  # names are matched whatever their case
        place.mkdir(exist_ok=True)
        Image.fromarray(image.numpy()).save(place / f"{i}.png")
    (tmp_path / "CAT" / "broken.png").write_text("no picture")
    result = evaluate(ARCH, str(tmp_path), checkpoint_path=checkpoint, device="cpu")
    assert np.array_equal(result.confusion, measured.confusion)
    assert [error.message for error in result.failed] == [
        error.message for error in result.failed if "broken.png" in error.message
    ]
    assert len(result.failed) == 1


def test_figures_are_torchmetrics(measured):
    """Each figure from the confusion against torchmetrics on the pairs behind it."""
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

    rows, columns = np.nonzero(measured.confusion)
    counts = measured.confusion[rows, columns]
    truth, answer = (torch.from_numpy(np.repeat(numbers, counts)) for numbers in (rows, columns))
    recall = multiclass_recall(answer, truth, 10, average="none")
    precision = multiclass_precision(answer, truth, 10, average="none")
    np.testing.assert_allclose(np.nan_to_num(measured.recall), 100 * recall.numpy(), rtol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(measured.precision), 100 * precision.numpy(), rtol=1e-6)
    scores = (multiclass_recall, multiclass_f1_score)
    balanced, f1 = (score(answer, truth, 10, average="macro") for score in scores)
    assert measured.balanced == pytest.approx(100 * float(balanced), rel=1e-6)
    assert measured.macro_f1 == pytest.approx(100 * float(f1), rel=1e-6)


def test_classes_that_a_file_was_trained_on_come_before_the_cards(data_root, tmp_path):
    """A network trained on three other classes is measured on those."""
    names = ("x", "y", "z")
    torch.manual_seed(0)
    facts = facts_for(ARCH, {"num_classes": 3}, labels=names)
    save_file(zoo.create_model(ARCH, num_classes=3).state_dict(), tmp_path / "three.safetensors", facts)
    for i in range(6):
        place = tmp_path / "data" / names[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * i, 0, 99)).save(place / f"{i}.png")
    result = evaluate(ARCH, str(tmp_path / "data"), checkpoint_path=tmp_path / "three.safetensors", device="cpu")
    assert result.names == names
    assert result.confusion.sum(1).tolist() == [2, 2, 2]
    pipe = zoo.pipeline(ARCH, checkpoint_path=tmp_path / "three.safetensors", device="cpu")
    assert set(pipe(tmp_path / "data" / "x" / "0.png").labels) == set(names)


def test_confusion_picture_shows_every_class(measured):
    picture = measured.draw()
    assert picture.width > 500
    assert picture.height > 500
    assert len(set(picture.resize((64, 64)).get_flattened_data())) > 3


@pytest.mark.parametrize(
    ("dataset", "error", "says"),
    [
        ("cifar100", UsageError, "cifar100: no class is called c0, c1, c2"),
        ("nowhere", InputError, "neither a published set nor a file or folder"),
    ],
)
def test_sets_that_do_not_fit(dataset, error, says, data_root, checkpoint, tmp_path):
    place = tmp_path / "cifar100"
    place.mkdir()
    images = np.zeros((100, 32, 32, 3), np.uint8)
    np.savez(place / "test.npz", images=images, labels=np.arange(100), names=[f"c{i}" for i in range(100)])
    with pytest.raises(error, match=says):
        evaluate(ARCH, dataset, root=tmp_path, checkpoint_path=checkpoint)


def test_folder_with_a_strange_class(checkpoint, tmp_path):
    (tmp_path / "unicorn").mkdir()
    (tmp_path / "unicorn" / "a.png").write_text("")
    with pytest.raises(UsageError, match="no class is called unicorn"):
        evaluate(ARCH, str(tmp_path), checkpoint_path=checkpoint)


def test_unknown_part_of_a_set(checkpoint, data_root):
    with pytest.raises(UsageError, match="no part 'val'"):
        evaluate(ARCH, "cifar10", split="val", root=data_root, checkpoint_path=checkpoint)


def test_unknown_model(data_root):
    with pytest.raises(UnknownName):
        evaluate("reste_resnet21", "cifar10", root=data_root)


def test_verify_needs_figures_of_ours():
    with pytest.raises(UsageError, match="no figures of ours"):
        verify("reste_resnet18_in1k")


def test_a_figure_that_moved_does_not_hold():
    figure = next(f for f in zoo.card(ARCH).figures if f.metric == "top1")
    assert Check(ARCH, figure, figure.value + 0.04, 0.05).holds
    assert not Check(ARCH, figure, figure.value - 0.06, 0.05).holds
