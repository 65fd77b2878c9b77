"""Curves over a training as one picture: a panel a figure, or several lines in one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.viz.panels import FAINT, INK, PAPER, RULE
from zoo.viz.text import ellipsize, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["chart", "curves"]

LINE = (38, 98, 176)
COLOURS = (LINE, (214, 116, 36), (46, 140, 84), (192, 64, 72), (126, 92, 190), (96, 102, 112))  # of lines in one panel
WIDTH, HEIGHT = 460, 240  # of a panel
WIDE, TALL = 620, 340  # of a chart
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


def chart(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, across: str = "") -> "Image":
    """All series as lines in one panel, with a legend; arguments as for `curves`.

    Raises:
        ValueError: There is no point to draw.
    """
    from PIL import Image, ImageDraw

    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points:
        raise ValueError("no series to draw")
    legend = 40 + max(text_width(name, TEXT) for name in series)
    image = Image.new("RGB", (WIDE + legend, TALL), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((LEFT, 14), ellipsize(title, TITLE, WIDE - LEFT), INK, font(TITLE))
    at = _axes(draw, WIDE, TALL, points, across)
    for place, (name, line) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        _line(draw, [at(x, y) for x, y in line if math.isfinite(y)], colour)
        y = TOP + 8 + 20 * place
        draw.line((WIDE, y, WIDE + 18, y), colour, 3)
        draw.text((WIDE + 26, y), name, INK, font(TEXT), anchor="lm")
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
    at = _axes(draw, WIDTH, HEIGHT, points, across)
    _line(draw, [at(x, y) for x, y in points], LINE)
    return image


def _axes(
    draw: "ImageDraw", width: int, height: int, points: Sequence[tuple[float, float]], across: str
) -> Callable[[float, float], tuple[float, float]]:
    """Draw ticks that span the points; returns where a point lies."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right = min(xs), max(xs)
    ticks = _ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    span = right - left

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - left) / span if span else 0.5
        return LEFT + (width - LEFT - RIGHT) * share, TOP + (height - TOP - BOTTOM) * (high - y) / (high - low)

    for tick in ticks:
        y = at(left, tick)[1]
        draw.line((LEFT, y, width - RIGHT, y), RULE)
        draw.text((LEFT - 8, y), _number(tick), FAINT, font(TEXT), anchor="rm")
    for x, anchor in ((left, "la"), (right, "ra")) if span else ((left, "ma"),):
        draw.text((at(x, low)[0], height - BOTTOM + 8), f"{across} {x:g}".strip(), FAINT, font(TEXT), anchor=anchor)
    return at


def _line(draw: "ImageDraw", line: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    if len(line) > 1:
        draw.line(line, colour, 2, joint="curve")
    for x, y in line[-1:]:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)


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
