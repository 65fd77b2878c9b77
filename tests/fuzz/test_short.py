"""The short form of the fuzz run: every seed, and some hundred mutations of them."""

import random

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, check, seeds

CASES = {"card": 400, "header": 1500, "packed": 60, "config": 20}


@pytest.fixture(scope="module")
def known():
    return seeds()


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_mutations(known, target):
    rng = random.Random(target)
    for data in known[target]:
        check(target, data)
    for _ in range(CASES[target]):
        data = mutated(rng.choice(known[target]), rng)
        try:
            check(target, data)
        except Exception as error:
            raise AssertionError(f"{target}: {type(error).__name__}: {error}\n{data!r}") from error


def test_the_good_seeds_are_good(known, tmp_path):
    """A target that refuses everything would find nothing."""
    import timm

    from zoo.build import check_file
    from zoo.registry.names import resolve

    (tmp_path / "model.safetensors").write_bytes(known["packed"][0])
    (tmp_path / "config.json").write_bytes(known["config"][0])
    assert check_file(tmp_path / "model.safetensors", resolve("reste_resnet20_cifar"), {})["num_classes"] == 2
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 2
