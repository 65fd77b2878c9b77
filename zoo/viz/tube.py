"""Boxes on frames: one frame of a video with who is meant, and a sheet of several."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo.viz.panels import INK, PAPER, TITLE, contact_sheet
from zoo.viz.text import ellipsize, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLOURS", "draw_box", "draw_progress", "tube_sheet"]

# apart from each other for colour-blind readers too (Okabe and Ito)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
DARK = (20, 22, 28)
LABEL = 0.6  # of the frame's width, at most, unless its box is wider: a label hides what is behind it


def draw_box(
    frame: NDArray[np.uint8], box: NDArray[np.floating], label: str, colour: tuple[int, int, int] = COLOURS[0]
) -> None:
    """Draw a box with its label above it, or inside where there is no room above, into (H, W, 3) pixels."""
    height, width = frame.shape[:2]
    thick = max(2, round(min(height, width) / 200))
    left, top, right, bottom = (round(float(x)) for x in box)
    left, right = max(0, min(left, width - thick)), max(thick, min(right, width))
    top, bottom = max(0, min(top, height - thick)), max(thick, min(bottom, height))
    frame[top : top + thick, left:right] = colour
    frame[max(0, bottom - thick) : bottom, left:right] = colour
    frame[top:bottom, left : left + thick] = colour
    frame[top:bottom, max(0, right - thick) : right] = colour
    if label:
        room = min(width, max(right - left, round(LABEL * width)))
        plate = _plate(label, max(11, round(height / 26)), room, colour)
        high, wide = plate.shape[:2]
        x = min(left, width - wide)
        y = top - high if top >= high else min(top + thick, height - high)
        if y >= 0:
            frame[y : y + high, x : x + wide] = plate


def draw_progress(
    frame: NDArray[np.uint8],
    now: float,
    spans: Sequence[tuple[float, float]],
    colours: Sequence[tuple[int, int, int]] = COLOURS,
) -> None:
    """Draw a bar along the lower edge: the video as far as it ran, and the spans in their colours.

    Args:
        frame: (H, W, 3).
        now: Share of the video that was shown, in [0, 1].
        spans: Their starts and ends, as shares of the video.
        colours: One a span.
    """
    height, width = frame.shape[:2]
    thick = max(3, height // (60 * max(1, len(spans))))  # of a span's own line
    bar = thick * max(1, len(spans))
    rows = frame[max(0, height - bar) :]
    rows[:] = rows // 3 + 40
    for line, ((start, end), colour) in enumerate(zip(spans, colours, strict=False)):
        first = min(round(start * width), width - 1)
        rows[line * thick : (line + 1) * thick, first : max(first + 1, round(end * width))] = colour
    at = min(round(now * width), width - 1)
    frame[max(0, height - bar - thick) :, max(0, at - 1) : at + 1] = 255


def tube_sheet(
    pictures: Sequence["Image"], boxes: NDArray[np.floating], captions: Sequence[str], *, title: str = ""
) -> "Image":
    """Frames of a tube in rows, each with its box and a caption.

    Args:
        pictures: RGB.
        boxes: (K, 4) pixels of those pictures; a row of NaN draws none.
        captions: One a picture.
        title: Line above.
    """
    from PIL import Image, ImageDraw

    drawn = []
    for picture, box in zip(pictures, boxes, strict=True):
        pixels = np.array(picture.convert("RGB"))
        if np.isfinite(box).all():
            draw_box(pixels, box, "")
        drawn.append(Image.fromarray(pixels))
    sheet = contact_sheet(drawn, captions, columns=min(4, len(drawn)), side=240)
    if not title:
        return sheet
    headed = Image.new("RGB", (sheet.width, sheet.height + TITLE + 16), PAPER)
    ImageDraw.Draw(headed).text((12, 10), ellipsize(title, TITLE, sheet.width - 24), INK, font(TITLE))
    headed.paste(sheet, (0, TITLE + 16))
    return headed


@lru_cache(maxsize=64)  # a video shows the same one in every frame
def _plate(label: str, size: int, room: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The label on its colour, as pixels."""
    from PIL import Image, ImageDraw

    text = ellipsize(label, size, max(20, room - 8))
    plate = Image.new("RGB", (min(room, text_width(text, size) + 8), size + 6), colour)
    ImageDraw.Draw(plate).text((4, 1), text, DARK, font(size))
    return np.asarray(plate)
