"""Recipes: what decodes, and what a misspelt one is told."""

import pytest

from zoo.errors import UnknownName, UsageError
from zoo.train.methods import method_names, new_method
from zoo.train.networks import input_of
from zoo.train.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_decode_and_name_real_things(name):
    recipe = load_recipe(name)
    assert input_of(recipe.model)
    new_method(recipe.method, **recipe.method_args)


def test_override_replaces_one_value():
    plain, changed = (
        load_recipe("reste_resnet20_cifar"),
        load_recipe("reste_resnet20_cifar", ("schedule.epochs=7", "data.crop_epochs=3")),
    )
    assert changed.schedule.epochs == 7
    assert changed.schedule.batch_size == plain.schedule.batch_size


def test_override_takes_bare_words():
    assert load_recipe("reste_resnet20_cifar", ("precision=no",)).precision == "no"


def test_a_value_in_place_of_a_table_is_its_name_where_it_has_one():
    assert load_recipe("reste_resnet20_cifar", ("data=cifar100",)).data.name == "cifar100"
    with pytest.raises(UsageError, match=r"^schedule=3: schedule: Expected `object`"):
        load_recipe("reste_resnet20_cifar", ("schedule=3",))


RECIPE = """model = "reste_resnet20_cifar"

[data]
name = "cifar10"

[schedule]
epochs = 3
"""


@pytest.mark.parametrize(
    ("broken", "says", "hint"),
    [
        (RECIPE.replace("epochs = 3", "epoch = 3"), r"r.toml:7: unknown key schedule.epoch", "epochs"),
        (RECIPE.replace("model =", "modle ="), r"r.toml:1: unknown key modle", "model"),
        (
            RECIPE.replace("epochs = 3", 'epochs = "three"'),
            r"r.toml:7: schedule.epochs: Expected `int`, got `str`",
            "keys",
        ),
        (RECIPE.replace("epochs = 3", "epochs = 0"), r"r.toml:7: schedule.epochs: Expected `int` >= 1", "keys"),
        (RECIPE.replace("epochs = 3", "epochs = 3\nwarmup = 3"), r"warmup is shorter", "keys"),
        (RECIPE.replace("[data]", "[data"), r"r.toml: ", "TOML"),
    ],
)
def test_broken_recipe_names_the_place(tmp_path, broken, says, hint):
    path = tmp_path / "r.toml"
    path.write_text(broken)
    with pytest.raises(UsageError, match=says) as caught:
        load_recipe(str(path))
    assert hint in caught.value.hint


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(UnknownName, match="no recipe 'reste_resnet20'") as caught:
        load_recipe("reste_resnet20")
    assert "reste_resnet20_cifar" in caught.value.hint


@pytest.mark.parametrize("override", ["schedule.epochs", "=3"])
def test_override_without_a_value(override):
    with pytest.raises(UsageError, match="no override"):
        load_recipe("reste_resnet20_cifar", (override,))


def test_table_is_named_by_a_bare_value():
    recipe = load_recipe("metric_imbalance", ("data=photos/skin", "optimizer=adamw", "data.size=64"))
    assert (recipe.data.name, recipe.data.size, recipe.optimizer.name) == ("photos/skin", 64, "adamw")


def test_methods():
    assert {"metric_imbalance", "plain", "reste", "sgiel"} <= set(method_names())
    with pytest.raises(UnknownName, match="no method 'rest'"):
        new_method("rest")
    with pytest.raises(UsageError, match=r"end is 0\.5"):
        new_method("reste", end=0.5)
    with pytest.raises(UsageError, match="stop"):
        new_method("reste", stop=3)
