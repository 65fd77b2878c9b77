"""Pictures with what a classifier said of them: one picture beside its bars, and many on a sheet."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.viz.text import ellipsize, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["contact_sheet", "enlarge", "label_panel"]

PAPER, INK, FAINT, RULE = (255, 255, 255), (28, 30, 36), (112, 118, 130), (232, 234, 239)
BAR, FIRST_BAR = (172, 190, 214), (38, 98, 176)
MARGIN, TITLE, TEXT, SMALL = 20, 18, 16, 13  # pixels
LIST = 380  # width of the list of bars
SMALLEST, LARGEST = 256, 640  # sides of the picture in the panel


def enlarge(image: "Image", smallest: int = SMALLEST, largest: int = LARGEST) -> "Image":
    """The picture at a size that can be looked at.

    A small one grows by a whole factor and keeps its pixels square, so that what the network saw stays visible; a large
    one shrinks.

    Args:
        image: Any picture.
        smallest: The long side reaches at least about this many pixels.
        largest: No side exceeds this many pixels.
    """
    from PIL import Image

    long_side = max(image.size)
    if long_side > largest:
        scale = largest / long_side
        return image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    factor = min(-(-smallest // long_side), largest // long_side)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def label_panel(
    image: "Image",
    labels: Sequence[str],
    scores: Sequence[float],
    *,
    beside: "Image | None" = None,
    title: str = "",
    note: str = "",
) -> "Image":
    """The picture and its labels as bars: beside it, or below when it is wide.

    Args:
        image: RGB picture, untouched.
        labels: Names, best first.
        scores: One a name, in [0, 1].
        beside: Another view of the picture, to its right.
        title: Line above the bars, such as the file's name; cut at its front when long.
        note: Small line below the bars.

    Raises:
        ValueError: Not one score a label.
    """
    from PIL import Image

    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels and {len(scores)} scores")
    picture = enlarge(image) if beside is None else _row(enlarge(image), enlarge(beside))
    below = picture.width > 1.6 * picture.height
    width = max(picture.width, LIST) if below else LIST
    bars = _bars(labels, scores, width, title, note)
    if below:
        size = (width + 2 * MARGIN, picture.height + bars.height + 3 * MARGIN)
        places = ((MARGIN + (width - picture.width) // 2, MARGIN), (MARGIN, picture.height + 2 * MARGIN))
    else:
        height = max(picture.height, bars.height)
        size = (picture.width + width + 3 * MARGIN, height + 2 * MARGIN)
        places = (
            (MARGIN, MARGIN + (height - picture.height) // 2),
            (picture.width + 2 * MARGIN, MARGIN + (height - bars.height) // 2),
        )
    panel = Image.new("RGB", size, PAPER)
    for part, place in zip((picture, bars), places, strict=True):
        panel.paste(part, place)
    return panel


def _row(left: "Image", right: "Image") -> "Image":
    from PIL import Image

    row = Image.new("RGB", (left.width + MARGIN + right.width, max(left.height, right.height)), PAPER)
    row.paste(left, (0, 0))
    row.paste(right, (left.width + MARGIN, 0))
    return row


def _bars(labels: Sequence[str], scores: Sequence[float], width: int, title: str, note: str) -> "Image":
    """The list: a title, then name and per cent above a bar, then the note."""
    from PIL import Image, ImageDraw

    row = TEXT + 22
    top = TITLE + 18 if title else 0
    height = top + row * len(labels) + (SMALL + 10 if note else 0)
    image = Image.new("RGB", (width, max(1, height)), PAPER)
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((0, 0), ellipsize(title, TITLE, width, keep_end=True), INK, font(TITLE))
    for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
        y = top + i * row
        percent = f"{100 * score:.1f} %"
        right = width - text_width(percent, TEXT)
        draw.text((0, y), ellipsize(label, TEXT, right - 16), INK if i == 0 else FAINT, font(TEXT))
        draw.text((right, y), percent, INK if i == 0 else FAINT, font(TEXT))
        bar = y + TEXT + 6
        draw.rounded_rectangle((0, bar, width - 1, bar + 6), 3, RULE)
        filled = round(score * (width - 1))
        if filled >= 1:
            draw.rounded_rectangle((0, bar, max(filled, 6), bar + 6), 3, FIRST_BAR if i == 0 else BAR)
    if note:
        draw.text((0, height - SMALL - 4), ellipsize(note, SMALL, width), FAINT, font(SMALL))
    return image


def contact_sheet(
    images: Sequence["Image"], captions: Sequence[str], *, columns: int | None = None, side: int = 160
) -> "Image":
    """Pictures in rows, each with up to two lines below.

    Args:
        images: RGB pictures; shown whole, centred in squares.
        captions: One a picture; a line break starts the second line.
        columns: Pictures a row; by default about as many as rows, at most 8.
        side: Side of a square in pixels.

    Raises:
        ValueError: No picture, or not one caption a picture.
    """
    from PIL import Image, ImageDraw

    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions")
    columns = columns or min(8, round(len(images) ** 0.5 + 0.499))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    gap = 12
    cell = side + 2 * (SMALL + 5) + 6
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + rows * (cell + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (cell + gap)
        picture = enlarge(image, side, side)
        draw.rectangle((x, y, x + side - 1, y + side - 1), RULE)
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        for j, line in enumerate(caption.split("\n")[:2]):
            place = (x, y + side + 5 + j * (SMALL + 5))
            draw.text(place, ellipsize(line, SMALL, side), FAINT if j else INK, font(SMALL))
    return sheet
