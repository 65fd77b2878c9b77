"""What the site's pages are made from: cards, help pages, the layer contract."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("grimp")  # comes with import-linter, which an installation for use does not need

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from made.architecture import house, layers  # noqa: E402  # found in the folder above
from made.commands import command_names, examples  # noqa: E402
from made.families import checkpoint_page, families, family_page, picture  # noqa: E402
from made.gallery import gallery_page, plots  # noqa: E402

FAMILIES = families()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_page_with_its_picture(family):
    page = family_page(family, FAMILIES[family])
    assert page.startswith("# ")
    for heading in ("## Models", "## Use", "## Results", "## Limits"):
        assert heading in page
    assert ElementTree.fromstring(picture(family)).tag.endswith("svg"), "no docs/families script draws it"


@pytest.mark.parametrize("card", [c for cards in FAMILIES.values() for c in cards], ids=lambda card: card.name)
def test_a_figure_of_ours_stands_with_its_command(card):
    page = checkpoint_page(card)
    for figure in card.figures:
        assert f"{figure.value:g}" in page
        assert figure.by == "paper" or figure.command in page


def test_the_gallery_has_every_card():
    page = gallery_page()
    names = [card.name for cards in FAMILIES.values() for card in cards]
    assert re.findall(r'class="tile" href="cards/([^"]+)\.html"', page) == names
    assert plots([card for cards in FAMILIES.values() for card in cards])


def test_the_house_shows_every_room():
    drawn = re.findall(r'data-room="(\w+)"', str(house()))
    assert sorted(drawn) == sorted(room for rooms in layers() for room in rooms)


def test_contributing_shows_the_rooms_in_the_order_that_is_checked():
    shown = re.search(r"```text\n(cli .*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    said = [set(re.findall(r"\w+", re.split(r"\s{2,}", line)[0])) for line in shown.splitlines() if line[0] != "-"]
    assert said == [set(rooms) for rooms in layers() if rooms != ["__main__"]]


@pytest.mark.parametrize("command", command_names())
def test_every_command_has_an_example(command):
    assert any(f"zoo {command}" in line for line in examples(command))
