"""Curves over a training as one picture, a panel a figure."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.viz.text import ellipsize, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["curves"]

PAPER, INK, FAINT, RULE, LINE = (255, 255, 255), (28, 30, 36), (112, 118, 130), (232, 234, 239), (38, 98, 176)
WIDTH, HEIGHT = 460, 240  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 44, 34
TITLE, TEXT = 17, 13


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, across: str = "", columns: int = 2) -> "Image":
    """A line for each series in a panel of its own.

    Args:
        series: Title to points (x, y), x rising; what is not finite is left out.
        across: What x is.
        columns: Panels side by side.

    Raises:
        ValueError: There is no series.
    """
    from PIL import Image

    if not series:
        raise ValueError("no series to draw")
    rows = -(-len(series) // columns)
    image = Image.new("RGB", (WIDTH * min(columns, len(series)), HEIGHT * rows), PAPER)
    for place, (title, points) in enumerate(series.items()):
        corner = (WIDTH * (place % columns), HEIGHT * (place // columns))
        image.paste(_panel(title, [point for point in points if math.isfinite(point[1])], across), corner)
    return image


def _panel(title: str, points: Sequence[tuple[float, float]], across: str) -> "Image":
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((LEFT, 14), ellipsize(title, TITLE, WIDTH - LEFT - 110), INK, font(TITLE))
    if not points:
        return image
    last = _number(points[-1][1])
    draw.text((WIDTH - RIGHT - text_width(last, TITLE), 14), last, LINE, font(TITLE))
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ticks = _ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = max(xs) - min(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        right = (x - min(xs)) / span if span else 0.5
        return LEFT + width * right, TOP + height * (high - y) / (high - low)

    for tick in ticks:
        y = at(xs[0], tick)[1]
        draw.line((LEFT, y, WIDTH - RIGHT, y), RULE)
        draw.text((LEFT - 8, y), _number(tick), FAINT, font(TEXT), anchor="rm")
    for x, anchor in ((xs[0], "la"), (xs[-1], "ra")) if span else ((xs[0], "ma"),):
        draw.text((at(x, low)[0], HEIGHT - BOTTOM + 8), f"{across} {x:g}".strip(), FAINT, font(TEXT), anchor=anchor)
    line = [at(x, y) for x, y in points]
    if len(line) > 1:
        draw.line(line, LINE, 2, joint="curve")
    x, y = line[-1]
    draw.ellipse((x - 3, y - 3, x + 3, y + 3), LINE)
    return image


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers that span a range."""
    if high == low:
        high, low = high + (abs(high) or 1) / 2, low - (abs(low) or 1) / 2
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * k for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.2e}"
