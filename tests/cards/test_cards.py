"""Every card: it decodes, it can be built, and what can be counted or hashed in it is right."""

import re
import shlex
from collections import defaultdict

import pytest

import zoo
from zoo import settings
from zoo.build import builder_of, skeleton
from zoo.errors import InputError, WeightsUnavailable
from zoo.hub.fetch import mismatch
from zoo.registry.labels import label_names
from zoo.registry.names import list_names, load_card, resolve
from zoo.tasks.evaluate import TOLERANCE, measured_names, verify

NAMES = list_names()


def test_there_are_cards():
    assert len(NAMES) >= 9
    assert len(list(settings.card_folder().glob("*.md"))) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_builder_makes_what_the_card_counts(name):
    card = load_card(name)
    builder = builder_of(card)
    assert builder.__name__ == card.architecture
    model = skeleton(card, card.builder_args)
    assert sum(parameter.numel() for parameter in model.parameters()) == card.params
    for module in (card.traits.first_conv, card.traits.classifier):
        if module:
            assert f"{module}.weight" in model.state_dict()
    if card.labels:
        assert len(label_names(card.labels)) == card.builder_args["num_classes"] == model.num_classes


def test_every_architecture_has_one_default():
    defaults = defaultdict(list)
    for name in NAMES:
        card = load_card(name)
        defaults[card.architecture].append(card.default)
    assert {architecture: sum(flags) for architecture, flags in defaults.items()} == dict.fromkeys(defaults, 1)


def test_no_two_cards_claim_one_name():
    spellings = defaultdict(set)
    for name in NAMES:
        card = load_card(name)
        for spelling in {name, name.replace(".", "_"), *card.aliases, *([card.architecture] if card.default else [])}:
            spellings[spelling].add(name)
    assert {spelling: names for spelling, names in spellings.items() if len(names) > 1} == {}
    for spelling, (name,) in spellings.items():
        assert resolve(spelling).name == name


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_plausible(name):
    card = load_card(name)
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", name)
    assert all(alias.isidentifier() for alias in card.aliases)  # timm and torch.hub need identifiers
    assert card.license == card.license.lower()
    assert len(card.summary) < 120
    assert all(0 <= figure.value <= 100 for figure in card.figures if figure.metric.startswith("top"))
    for figure in card.figures:
        if figure.by == "zoo":
            assert figure.command.startswith("zoo ")
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", figure.date)
    for heading in ("## Use", "## How it was made", "## What it cannot do"):
        assert heading in card.body


@pytest.mark.parametrize("name", measured_names())
def test_measured_figures_say_how_to_measure_them_again(name):
    """The command is one of `zoo eval` on this very network and set, and `zoo verify` knows the metric."""
    for figure in load_card(name).figures:
        if figure.by != "zoo":
            continue
        assert figure.metric in TOLERANCE
        program, verb, model, dataset, *options = shlex.split(figure.command)
        assert (program, verb) == ("zoo", "eval")
        assert resolve(model).name == name
        assert dataset == figure.dataset
        split = options[options.index("--split") + 1] if "--split" in options else "test"
        assert split == figure.split


@pytest.mark.slow
@pytest.mark.parametrize("name", measured_names())
def test_measured_figures_hold(name):
    """Where the sets are, under ZOO_DATA, every figure of ours comes out again."""
    try:
        checks = verify(name, device="cpu")
    except (InputError, WeightsUnavailable) as error:
        pytest.skip(error.message)
    assert [check.to_dict() for check in checks if not check.holds] == []


@pytest.mark.parametrize("name", [name for name in NAMES if load_card(name).weights.status == "bundled"])
def test_bundled_weights_are_the_cards(name):
    card = load_card(name)
    path = settings.bundled_weights() / f"{name}.safetensors"
    assert path.stat().st_size < 10_000_000
    assert mismatch(path, card) is None
    zoo.create_model(name, pretrained=True)


def test_every_bundled_file_has_a_card():
    assert {path.stem for path in settings.bundled_weights().glob("*.safetensors")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_under_use_run(name):
    card = load_card(name)
    (code,) = re.findall(r"## Use\n```python\n(.*?)```", card.body, re.DOTALL)
    space = {}
    exec(code, space)
    if card.task == "classify":
        assert space["logits"].shape == (1, card.builder_args["num_classes"])
