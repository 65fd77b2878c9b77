"""Names: what resolves to what, what is refused, and that nothing heavy is imported for it."""

import json
import subprocess
import sys

import pytest

from zoo import settings
from zoo.errors import CardError, UnknownName
from zoo.registry import names
from zoo.registry.card import read_card
from zoo.registry.labels import label_names

CARD = """---
builder: {module}:{architecture}
task: {task}
summary: A card for a test.
default: {default}
aliases: {aliases}
license: mit
weights: {{status: {status}}}
---
Text.
"""


def write_card(folder, name, *, module="nowhere", task="classify", default="false", aliases="[]", status="unpublished"):
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"module": module, "task": task, "default": default, "aliases": aliases, "status": status}
    (folder / f"{name}.md").write_text(CARD.format(architecture=name.partition(".")[0], **fields))


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """An empty folder in place of our cards."""
    monkeypatch.setattr(settings, "card_folder", lambda: tmp_path / "cards")
    names.forget()
    yield tmp_path / "cards"
    names.forget()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The card folder of an installed package that offers cards."""
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers" / "__init__.py").write_text("raise RuntimeError('nobody needs to import me for a list')\n")
    info = tmp_path / "strangers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo.cards]\nstrangers = strangers\n")
    monkeypatch.syspath_prepend(tmp_path)
    names.forget()
    yield tmp_path / "strangers" / "cards"
    names.forget()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("reste_resnet20_cifar.c10", "reste_resnet20_cifar.c10"),
        ("reste_resnet20_cifar", "reste_resnet20_cifar.c10"),
        ("reste_resnet20_cifar_c10", "reste_resnet20_cifar.c10"),
        ("reste_resnet20_cifar_c10_w1a32", "reste_resnet20_cifar.c10_w1a32"),
        ("reste_vgg_small", "reste_vggsmall_cifar.c10"),
        ("reste_resnet18_imagenet", "reste_resnet18_in1k.in1k"),
    ],
)
def test_spellings(typed, meant):
    assert names.resolve(typed).name == meant


def test_an_unknown_name_comes_with_the_three_nearest():
    with pytest.raises(UnknownName, match="'reste_resnt20_cifar'") as caught:
        names.resolve("reste_resnt20_cifar")
    near = caught.value.hint.removeprefix("did you mean ").rstrip("?").split(", ")
    assert len(near) == 3
    assert near[0] == "reste_resnet20_cifar"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name", ["", ".", "../reste_resnet20_cifar", "RESTE_RESNET20_CIFAR", "reste_resnet20_cifar.", "🦓"]
)
def test_near_misses_are_no_names(name):
    with pytest.raises(UnknownName):
        names.resolve(name)


def test_list_takes_patterns_tasks_and_availability(cards):
    write_card(cards, "a_net.x", status="none")
    write_card(cards, "a_net.y", default="true")
    write_card(cards, "b_net.x", task="filter")
    assert names.list_names() == ["a_net.x", "a_net.y", "b_net.x"]
    assert names.list_names("a*") == names.list_names("a_net") == ["a_net.x", "a_net.y"]
    assert names.list_names("*.x") == ["a_net.x", "b_net.x"]
    assert names.list_names(task="filter") == ["b_net.x"]
    assert names.list_names(pretrained=True) == ["a_net.x"]
    assert names.list_names("a*", pretrained=False) == ["a_net.y"]
    assert names.list_names("z*") == []


def test_the_default_is_the_card_that_says_so(cards):
    write_card(cards, "net.a")
    write_card(cards, "net.b", default="true")
    assert names.resolve("net").name == "net.b"


@pytest.mark.parametrize("default", ["true", "false"])
def test_two_defaults_or_none_are_an_error(cards, default):
    write_card(cards, "net.a", default=default)
    write_card(cards, "net.b", default=default)
    with pytest.raises(CardError, match=r"net\.a, net\.b"):
        names.resolve("net")


@pytest.mark.parametrize("alias", ["taken", "other", "other.x", "other_x"])
def test_two_cards_claiming_one_name_are_an_error(cards, alias):
    write_card(cards, "net.a", aliases=f"[{alias}]")
    write_card(cards, "other.x", aliases="[taken]")
    with pytest.raises(CardError, match="both claim"):
        names.resolve("something else")


def test_two_names_with_one_underscore_spelling_are_an_error(cards):
    write_card(cards, "a.b_c")
    write_card(cards, "a_b.c")
    with pytest.raises(CardError, match="same name"):
        names.resolve("a_b_c")


def test_one_card_is_read_for_one_name(cards):
    write_card(cards, "net.a")
    (cards / "broken.a.md").write_text("no front matter")
    assert names.resolve("net.a").name == "net.a"
    with pytest.raises(CardError, match="front matter"):
        names.resolve("broken.a")


def test_other_packages_join(package):
    write_card(package, "strange_net.x", module="strangers.net", aliases="[stranger]")
    assert "strange_net.x" in names.list_names()
    assert names.resolve("stranger").name == "strange_net.x"
    assert names.resolve("strange_net_x").builder == "strangers.net:strange_net"
    assert "strangers" not in sys.modules


def test_a_broken_stranger_does_not_break_ours(package, caplog):
    write_card(package, "strange_net.x")
    (package / "bad.x.md").write_text("---\nbuilder: [\n---\n")
    listed = names.list_names()
    assert "strange_net.x" in listed
    assert "reste_resnet20_cifar.c10" in listed
    assert "bad.x" not in listed
    assert "bad.x.md" in caplog.text
    with pytest.raises(CardError):
        names.resolve("bad.x")


def test_a_stranger_cannot_take_our_name(package, caplog):
    write_card(package, "reste_resnet20_cifar.c10", module="strangers", aliases="[reste_vgg_small]")
    write_card(package, "strange_net.x", aliases="[reste_vgg_small]")
    assert names.resolve("reste_resnet20_cifar.c10").builder.startswith("zoo.models.reste:")
    assert names.list_names().count("reste_resnet20_cifar.c10") == 1
    assert names.resolve("reste_vgg_small").name == "reste_vggsmall_cifar.c10"
    with pytest.raises(UnknownName):
        names.resolve("reste_vgg_smal")
    assert "left out" in caplog.text


def test_names_and_cards_load_nothing_heavy():
    program = (
        "import json, sys, zoo\n"
        "zoo.list_models(task='classify', pretrained=False); zoo.card('reste_vgg_small')\n"
        "from zoo.registry.labels import label_names; label_names('imagenet-1k')\n"
        "try: zoo.card('reste_resnt20')\n"
        "except zoo.errors.UnknownName: pass\n"
        "import zoo.hub.cache, zoo.hub.checkpoint, zoo.hub.fetch\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"torch", "timm", "numpy", "PIL", "huggingface_hub", "safetensors", "pydantic", "rich"}
    assert not heavy & set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [("cifar10", 10, "airplane", "truck"), ("imagenet-1k", 1000, "tench", "toilet tissue")],
)
def test_label_lists(name, count, first, last):
    labels = label_names(name)
    assert len(labels) == len(set(labels)) == count
    assert (labels[0], labels[-1]) == (first, last)
    assert all(label == label.strip() and label for label in labels)


def test_an_unknown_label_list():
    with pytest.raises(UnknownName, match="imagenet-2k"):
        label_names("imagenet-2k")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("colour: red", "unknown field `colour`"),
        ("params: many", "Expected `int | null`"),
        ("weights: {status: bundled}", "need bytes and sha256"),
        ("weights: {status: bundled, bytes: 1, sha256: ABC}", "64 lower-case hex"),
        ("figures: [{metric: top1, dataset: d, split: s, value: 1, by: zoo}]", "the command and the date"),
        ("input: {crop_pct: 2}", "crop_pct"),
        ("input: {size: [1, 8, 8]}", "one value a channel"),
        ("summary: [", ""),
        ("aliases: [&x a, *x]", "an alias"),
        ("summary: 2026-13-45", "month must be in"),
        ("summary: !!timestamp soon", ""),
    ],
)
def test_a_bad_card_says_file_and_fault(tmp_path, line, complaint):
    write_card(tmp_path, "net.a")
    path = tmp_path / "net.a.md"
    key = line.partition(":")[0]
    kept = [old for old in path.read_text().splitlines() if not old.startswith(f"{key}:")]
    path.write_text("\n".join([kept[0], line, *kept[1:]]) + "\n")
    with pytest.raises(CardError, match=r"net\.a\.md:2") as caught:
        read_card(path)
    assert complaint in caught.value.message


def test_a_card_that_is_not_text(tmp_path):
    (tmp_path / "net.a.md").write_bytes(b"---\nsummary: \xff\n---\n")
    with pytest.raises(CardError, match=r"net\.a\.md: .* at byte 13"):
        read_card(tmp_path / "net.a.md")


def test_a_builder_of_another_name_is_refused(tmp_path):
    write_card(tmp_path, "net.a")
    path = tmp_path / "net.a.md"
    path.write_text(path.read_text().replace("nowhere:net", "nowhere:another"))
    with pytest.raises(CardError, match="does not make net"):
        read_card(path)
