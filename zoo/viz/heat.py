"""A map of importance laid over the picture that it is about."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["heat_overlay"]

# dark to light, even in steps of lightness, so that it reads in grey and for colour-blind people
COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
STRENGTH = 0.65  # share of the colour where the map is 1
UNSEEN = 0.35  # brightness of what lies outside


def heat_overlay(
    image: "Image", heat: NDArray[np.float32], box: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> "Image":
    """The picture in grey with the map's colours over it; what lies outside the map's box is dark.

    Args:
        image: RGB picture, untouched.
        heat: (h, w) in [0, 1].
        box: Left, top, right and bottom of what the map covers, as shares of the picture's sides.
    """
    from PIL import Image

    left, right = (round(x * image.width) for x in (box[0], box[2]))
    top, bottom = (round(y * image.height) for y in (box[1], box[3]))
    size = max(1, right - left), max(1, bottom - top)
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)
    grey = np.asarray(image.convert("L"), np.float32)[:, :, None].repeat(3, 2)
    pixels = UNSEEN * grey
    rows, columns = slice(top, top + size[1]), slice(left, left + size[0])
    seen = grey[rows, columns]
    cut = strength[: seen.shape[0], : seen.shape[1]]
    share = STRENGTH * cut[:, :, None]
    pixels[rows, columns] = (1 - share) * seen + share * _colours(cut)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _colours(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) in [0, 1] to (H, W, 3) in [0, 255]."""
    steps = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(strength, steps, channel) for channel in COLOURS.T], -1).astype(np.float32)
