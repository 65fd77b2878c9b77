"""A query and what was found for it: a sheet of framed pictures, and a page.

A frame is green with a tick where the answer is right, red with a cross where it is wrong, grey without a mark where
nobody knows; the words below say it too, so that nothing hangs on colour.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Literal

from zoo.viz.panels import FAINT, INK, PAPER, RULE, SMALL, TITLE
from zoo.viz.text import ellipsize, font

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["Cell", "Mark", "Row", "ranking_page", "ranking_sheet"]

Mark = Literal["query", "right", "wrong", "unknown"]

COLOURS: dict[Mark, tuple[int, int, int]] = {
    "query": (20, 20, 24),
    "right": (22, 138, 66),
    "wrong": (206, 44, 49),
    "unknown": (150, 155, 165),
}
SIGNS: dict[Mark, str] = {"query": "", "right": "\u2713", "wrong": "\u2717", "unknown": ""}
WORDS: dict[Mark, str] = {"query": "query", "right": "right", "wrong": "wrong", "unknown": ""}
FRAME, GAP, MARGIN, BADGE = 5, 14, 16, 26  # pixels: a frame's width, between cells, around, a mark's side
LINE = SMALL + 5
MOST = 280  # pixels of a cell's long side


@dataclass(frozen=True)
class Cell:
    """One framed picture.

    Attributes:
        image: RGB picture; None where it cannot be had.
        mark: What the frame says.
        lines: Text below, the first line the most important.
        media: Address of what a page plays or opens, such as a part of a video.
        is_video: Whether that is a video.
    """

    image: "Image | None"
    mark: Mark
    lines: tuple[str, ...] = ()
    media: str | None = None
    is_video: bool = False


@dataclass(frozen=True)
class Row:
    """A query and its answers, best first.

    Attributes:
        title: What was asked: a file's name or a sentence.
        query: The query's picture; None for a sentence.
        cells: The answers.
        note: What else there is to say.
    """

    title: str
    query: Cell | None
    cells: tuple[Cell, ...]
    note: str = ""


def ranking_sheet(row: Row, *, columns: int | None = None, side: int = MOST) -> "Image":
    """The query, then its answers in rows.

    Args:
        row: What to show.
        columns: Pictures beside each other, by default at most eleven: a query and ten answers.
        side: Long side of a picture in pixels.
    """
    from PIL import Image, ImageDraw

    cells = (row.query, *row.cells) if row.query else row.cells
    width, height = _cell_size(cells, side)
    columns = max(1, min(columns or 11, len(cells)))
    lines = max((len(cell.lines) for cell in cells), default=0)
    step = width + GAP, height + lines * LINE + 6 + GAP
    top = MARGIN + TITLE + 12 + (LINE if row.note else 0)
    count = -(-len(cells) // columns)
    sheet = Image.new("RGB", (max(2 * MARGIN + columns * step[0] - GAP, 360), top + count * step[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * MARGIN
    draw.text((MARGIN, MARGIN - 4), ellipsize(row.title, TITLE, room), INK, font(TITLE))
    if row.note:
        draw.text((MARGIN, MARGIN + TITLE + 4), ellipsize(row.note, SMALL, room), FAINT, font(SMALL))
    for i, cell in enumerate(cells):
        x, y = MARGIN + i % columns * step[0], top + i // columns * step[1]
        _paint(sheet, draw, cell, (x, y, x + width, y + height))
    return sheet


def _cell_size(cells: Sequence[Cell], side: int) -> tuple[int, int]:
    """Width and height of a cell, for the usual shape of its pictures."""
    shapes = sorted(cell.image.width / cell.image.height for cell in cells if cell.image)
    aspect = min(2.0, max(0.5, shapes[len(shapes) // 2])) if shapes else 1.0
    return max(110, round(side * min(1.0, aspect))), round(side * min(1.0, 1 / aspect))


def _paint(sheet: "Image", draw: "ImageDraw", cell: Cell, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    colour = COLOURS[cell.mark]
    draw.rectangle((left, top, right - 1, bottom - 1), RULE)
    if cell.image:
        picture = _fitted(cell.image, right - left - 2 * FRAME, bottom - top - 2 * FRAME)
        sheet.paste(picture, ((left + right - picture.width) // 2, (top + bottom - picture.height) // 2))
    else:
        draw.text(((left + right) // 2, (top + bottom) // 2), "no picture", FAINT, font(SMALL), anchor="mm")
    draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=FRAME)
    if SIGNS[cell.mark]:
        _badge(draw, cell.mark, right - BADGE, top)
    for i, line in enumerate(cell.lines):
        place = (left, bottom + 5 + i * LINE)
        draw.text(place, ellipsize(line, SMALL, right - left), FAINT if i else INK, font(SMALL))


def _badge(draw: "ImageDraw", mark: Mark, left: int, top: int) -> None:
    """A tick or a cross in the corner, drawn as lines: not every font has the signs."""
    draw.rectangle((left, top, left + BADGE - 1, top + BADGE - 1), COLOURS[mark])
    a, b, c = (round(BADGE * share) for share in (0.26, 0.42, 0.74))
    if mark == "right":
        draw.line((left + a - 1, top + b + 3, left + b, top + c, left + c + 1, top + a + 1), PAPER, 3, "curve")
    else:
        draw.line((left + a, top + a, left + c, top + c), PAPER, 3)
        draw.line((left + a, top + c, left + c, top + a), PAPER, 3)


def _fitted(image: "Image", width: int, height: int) -> "Image":
    """The picture as large as the room allows; a small one grows by a whole factor, with square pixels."""
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    if scale >= 1:
        return image.resize((image.width * int(scale), image.height * int(scale)), Image.Resampling.NEAREST)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --paper: #fff; --ink: #1c1e24; --faint: #6a7080; --rule: #dde0e6; --empty: #eef0f3;
          --query: #141418; --right: #168a42; --wrong: #ce2c31; --unknown: #969ba5; }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #15171c; --ink: #e8eaef; --faint: #9aa1b0; --rule: #333845; --empty: #232730;
            --query: #f2f3f6; --unknown: #6a7080; }
  }
  body { margin: 0 auto; max-width: 1500px; padding: 1em 1.2em; background: var(--paper); color: var(--ink);
         font: 14px/1.4 system-ui, sans-serif; }
  h1 { font-size: 1.25rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
  section { border-top: 1px solid var(--rule); padding: 1em 0; }
  .note { color: var(--faint); margin: .2em 0 .8em; }
  .row { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
  figure { margin: 0; position: relative; width: ${width}px; max-width: 100%; }
  figure img, figure video, .none { display: block; width: 100%; height: ${height}px; object-fit: contain;
         background: var(--empty); box-sizing: border-box; border: 5px solid var(--unknown); }
  .none { display: grid; place-items: center; color: var(--faint); }
  .query img { border-color: var(--query); } .right img, .right video { border-color: var(--right); }
  .wrong img, .wrong video { border-color: var(--wrong); }
  .sign { position: absolute; right: 0; top: 0; width: 26px; height: 26px; color: #fff; font: bold 18px/26px sans-serif;
          text-align: center; z-index: 1; }
  .right .sign { background: var(--right); } .wrong .sign { background: var(--wrong); }
  figcaption { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
  figcaption b { color: var(--ink); font-weight: 600; display: block; }
  a { color: inherit; }
</style>
<h1>$title</h1>
<p class="note">$legend</p>
$sections
</html>
""")
LEGEND: dict[Mark, str] = {
    "right": "\u2713 green frame: right.",
    "wrong": "\u2717 red frame: wrong.",
    "unknown": "Grey frame: not known whether right.",
    "query": "Black or white frame: the query.",
}
SCORE = "A score is a similarity, no probability."


def ranking_page(rows: Sequence[Row], *, title: str, side: int = MOST) -> str:
    """A page of its own, pictures inside, with a section a query.

    Args:
        rows: Queries with their answers.
        title: Headline.
        side: Long side of a picture in pixels.
    """
    width, height = _cell_size([cell for row in rows for cell in row.cells], side)
    sections = "\n".join(_section(row) for row in rows)
    marks = {cell.mark for row in rows for cell in (row.query, *row.cells) if cell}
    said = [text for mark, text in LEGEND.items() if mark in marks] if marks != {"unknown"} else []
    legend = " ".join([*said, SCORE])
    return PAGE.substitute(title=html.escape(title), legend=legend, sections=sections, width=width, height=height)


def _section(row: Row) -> str:
    cells = (row.query, *row.cells) if row.query else row.cells
    note = f'<p class="note">{html.escape(row.note)}</p>' if row.note else ""
    figures = "\n".join(_figure(cell) for cell in cells)
    return f'<section>\n<h2>{html.escape(row.title)}</h2>\n{note}\n<div class="row">\n{figures}\n</div>\n</section>'


def _figure(cell: Cell) -> str:
    sign = SIGNS[cell.mark]
    badge = f'<span class="sign" role="img" aria-label="{WORDS[cell.mark]}">{sign}</span>' if sign else ""
    first, *rest = cell.lines or ("",)
    caption = f"<b>{html.escape(first)}</b>" + "<br>".join(map(html.escape, rest))
    return f'<figure class="{cell.mark}">{badge}{_shown(cell)}<figcaption>{caption}</figcaption></figure>'


def _shown(cell: Cell) -> str:
    picture = _address(cell.image) if cell.image else ""
    media = html.escape(cell.media, quote=True) if cell.media else ""
    if media and cell.is_video:
        return f'<video src="{media}" poster="{picture}" controls preload="none"></video>'
    name = html.escape(cell.lines[0] if cell.lines else cell.mark, quote=True)
    shown = f'<img src="{picture}" alt="{name}">' if picture else '<span class="none">no picture</span>'
    return f'<a href="{media}">{shown}</a>' if media else shown


def _address(image: "Image") -> str:
    held = io.BytesIO()
    _fitted(image, 2 * MOST, 2 * MOST).convert("RGB").save(held, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
