"""Builds the site: `python docs/build.py site`, then open site/index.html.

What a card, a docstring or a help page says is taken from there; docs/ holds only what no code says. Pages are laid out
in a scratch folder, Sphinx makes HTML of them, and every link and picture inside the site is followed.
"""

import argparse
import io
import re
import shutil
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

from made.architecture import architecture_page  # noqa: E402  # the folder of this file has to be found first
from made.commands import commands_page  # noqa: E402
from made.families import checkpoint_page, families, family_page  # noqa: E402
from made.gallery import gallery_page  # noqa: E402
from made.reference import public_page, room_page, rooms  # noqa: E402

BESIDE = ("benchmarks", "experiments", "cards")  # folders of the checkout whose texts and pictures the site has too
TOP = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def lay_out(source: Path) -> None:
    """Write every page of the site, as Markdown, into a folder."""
    shutil.copytree(
        DOCS, source, ignore=shutil.ignore_patterns("made", "families", "build.py", "__pycache__"), dirs_exist_ok=True
    )
    for folder in BESIDE:
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True
        )
    for name in TOP:
        shutil.copy(ROOT / name, source)
    for path in source.rglob("*.md"):
        repository = (
            ROOT / path.relative_to(source)
            if path.parts[len(source.parts)] in (*BESIDE, *TOP)
            else DOCS / path.relative_to(source)
        )
        path.write_text(_relinked(path.read_text(encoding="utf-8"), repository, path, source), encoding="utf-8")

    pages = {
        "models": gallery_page(),
        "commands": commands_page(),
        "python": public_page(),
        "house": architecture_page(),
    }
    pages |= {f"api/{room}": room_page(room) for room in rooms()}
    for family, cards in families().items():
        pages[f"families/{family}"] = _relinked(
            family_page(family, cards), DOCS / "families" / f"{family}.md", source / "families" / f"{family}.md", source
        )
        for card in cards:
            pages[f"cards/{card.name}"] = _relinked(
                checkpoint_page(card), ROOT / "cards" / f"{card.name}.md", source / "cards" / f"{card.name}.md", source
            )
    for name, text in pages.items():
        path = source / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _relinked(text: str, repository: Path, page: Path, source: Path) -> str:
    """Links between files of the checkout as links between pages; to a file that is no page, its path as code."""

    def link(found: re.Match[str]) -> str:
        mark, label, target, place = found.groups()
        if (
            (page.parent / target).exists()
            or target.startswith("../families/")
            or target.startswith("../cards/")
            or target.startswith("api/")
        ):
            return found[0]
        there = (repository.parent / target).resolve()
        if not there.exists():
            return found[0]  # Sphinx says where
        inside = there.relative_to(DOCS if there.is_relative_to(DOCS) else ROOT)
        if not (source / inside).exists():
            return f"{label} (`{there.relative_to(ROOT)}`)"
        up = "../" * (len(page.relative_to(source).parts) - 1)
        return f"{mark}[{label}]({up}{inside}{place or ''})"

    return LINK.sub(link, text)


def build(source: Path, target: Path) -> list[str]:
    """Make HTML of the pages.

    Returns:
        What Sphinx warns of, but for the markup inside docstrings.
    """
    from sphinx.application import Sphinx

    said = io.StringIO()
    app = Sphinx(source, source, target, target / ".doctrees", "html", status=None, warning=said, freshenv=True)
    app.build()
    shutil.rmtree(target / ".doctrees")
    lines = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).replace(f"{source}/", "").splitlines()
    return [line for line in lines if "WARNING" in line or "ERROR" in line]


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value for key in ("href", "src") if (value := found.get(key))]
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}


def broken_links(site: Path) -> list[str]:
    """Links inside the site that lead to no file, or to no place in it; addresses elsewhere are not tried."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_file() or (
                parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def main() -> int:
    """Build into a folder; returns 1 if a page has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the site")
    target = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch).resolve() / "source"
        lay_out(source)
        warnings = build(source, target)
    in_docstrings = [line for line in warnings if "docstring of" in line]
    faults = [line for line in warnings if "docstring of" not in line] + [
        f"broken link: {b}" for b in broken_links(target)
    ]
    for line in faults:
        print(line)
    print(
        f"{len(list(target.rglob('*.html')))} pages, {len(faults)} faults, {len(in_docstrings)} remarks on docstrings"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
