"""A confusion matrix as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo.viz.panels import FAINT, INK, PAPER
from zoo.viz.text import ellipsize, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["confusion_matrix"]

TEXT, TITLE = 16, 20
GOOD, BAD = np.array((31, 119, 180)), np.array((214, 69, 49))  # apart in lightness too, for colour-blind readers


def confusion_matrix(counts: NDArray[np.int64], names: Sequence[str], *, title: str = "") -> "Image":
    """Rows are the truth, columns the answer, each row as shares of its class.

    The numbers stand in the cells up to 20 classes; beyond, the cells shrink and the names are left out.

    Args:
        counts: (K, K) counts.
        names: K classes.
        title: Line above.
    """
    from PIL import Image, ImageDraw

    classes = len(names)
    lettered = classes <= 20
    cell = 52 if lettered else max(2, 800 // classes)
    labels = [ellipsize(name, TEXT, 150) for name in names] if lettered else []
    left = max((text_width(label, TEXT) for label in labels), default=0) + 40
    top = 64
    side = cell * classes
    below = max((text_width(label, TEXT) for label in labels), default=0) + 44
    width = max(left + side + 20, text_width(title, TITLE) + 40)
    image = Image.new("RGB", (width, top + side + below), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((20, 18), title, INK, font(TITLE))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row in range(classes):
        for column in range(classes):
            share = float(shares[row, column])
            tint = GOOD if row == column else BAD
            strength = share if row == column else min(1.0, 4 * share)  # errors are small; show them anyway
            colour = tuple(int(255 + (c - 255) * strength) for c in tint)
            x, y = left + column * cell, top + row * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), colour)
            if lettered and counts[row, column]:
                ink = PAPER if strength > 0.55 else INK
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), str(counts[row, column]), ink, font(TEXT), anchor="mm")
    for k, label in enumerate(labels):
        draw.text((left - 10, top + k * cell + cell / 2), label, INK, font(TEXT), anchor="rm")
        image.paste(_upright(label), (left + k * cell + cell // 2 - TEXT // 2 - 2, top + side + 8))
    draw.text((left, top + side + below - 26), "row: truth, column: answer", FAINT, font(TEXT))
    return image


def _upright(label: str) -> "Image":
    """A line of text that reads upwards."""
    from PIL import Image, ImageDraw

    line = Image.new("RGB", (text_width(label, TEXT) + 2, TEXT + 6), PAPER)
    ImageDraw.Draw(line).text((0, 1), label, INK, font(TEXT))
    return line.rotate(90, expand=True)
