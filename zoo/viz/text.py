"""Text in pictures: the font, and names cut to fit."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["ellipsize", "font", "text_width"]


@lru_cache(maxsize=16)
def font(size: int) -> "FreeTypeFont | ImageFont":
    """Pillow's own font at a size in pixels; a bitmap font of one size where Pillow lacks FreeType."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of a line in pixels."""
    return int(font(size).getlength(text) + 0.5)


def ellipsize(text: str, size: int, width: int, *, keep_end: bool = False) -> str:
    """A line cut to fit into `width` pixels, with an ellipsis where it was cut.

    Args:
        text: The line.
        size: Font size in pixels.
        width: Room in pixels.
        keep_end: Cut at the front, as suits a path.
    """
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)  # the longest part that fits, by bisection
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(_cut(text, middle, keep_end), size) <= width:
            low = middle
        else:
            high = middle - 1
    return _cut(text, low, keep_end)


def _cut(text: str, length: int, keep_end: bool) -> str:
    if keep_end:
        return "…" + text[len(text) - length :].lstrip()
    return text[:length].rstrip() + "…"
