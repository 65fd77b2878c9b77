"""From a picture to what a network takes, as timm's evaluation transform does it.

The part that runs per picture gives bytes, a quarter of the memory; the part with the arithmetic runs once a batch, on
the device. Together they equal `timm.data.create_transform(**cfg)` to the last bit in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.registry.card import Input

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["Preprocess", "standardise"]


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of a card.

    Args:
        input: The card's `input`; its size has one (grey) or three channels.
    """

    input: Input

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Whether `crop` leaves an array (H, W, C) of colours as it is."""
        return shape == self._kept

    @cached_property  # asked of every picture
    def _kept(self) -> tuple[int, int, int] | None:
        channels, height, width = self.input.size
        is_kept = self._resized((width, height)) == (width, height)
        return (height, width, channels) if is_kept and channels == 3 else None

    def crop(self, image: "Image") -> NDArray[np.uint8]:
        """The resized and cropped picture.

        Args:
            image: RGB picture.

        Returns:
            (H, W, C) uint8, of the card's size.
        """
        from PIL.Image import Resampling

        channels, height, width = self.input.size
        if channels == 1:
            image = image.convert("L")
        size = self._resized(image.size)
        if size != image.size:
            image = image.resize(size, Resampling[self.input.interpolation.upper()])
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        if size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image).reshape(height, width, channels)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what `crop` leaves of a picture, as shares of its width and height."""
        _, height, width = self.input.size
        whole = self._resized(size)
        left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
        return left / whole[0], top / whole[1], (left + width) / whole[0], (top + height) / whole[1]

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height before the crop."""
        _, height, width = self.input.size
        if self.input.crop_mode == "squash":
            return math.floor(width / self.input.crop_pct), math.floor(height / self.input.crop_pct)
        return _resized(size, (width, height), self.input.crop_pct)

    def normalise(self, batch: "Tensor") -> "Tensor":
        """(B, H, W, C) uint8 to (B, C, H, W) float32 on the same device, with the card's mean and deviation."""
        return standardise(batch, self.input.mean, self.input.std)

    def __call__(self, image: "Image") -> Any:
        """(C, H, W) float32 of one picture."""
        import torch

        return self.normalise(torch.from_numpy(self.crop(image).copy())[None])[0]


def standardise(batch: "Tensor", mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Colours of 0 to 255 brought to a mean and a deviation.

    Args:
        batch: (B, H, W, C) uint8.
        mean: Of each channel, of colours in [0, 1].
        std: Deviation of each channel.

    Returns:
        (B, C, H, W) float32, channels last.
    """
    import torch

    count, height, width, channels = batch.shape
    x = batch.float().reshape(count, height, width * channels)  # whole rows: three channels do not fill a vector
    means, stds = (torch.tensor(values, device=batch.device).repeat(width) for values in (mean, std))
    x.div_(255).sub_(means).div_(stds)  # torchvision's order of operations; another one rounds differently
    return x.view(count, height, width, channels).permute(0, 3, 1, 2)


def _resized(size: tuple[int, int], target: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """Width and height after timm's resize, which keeps the aspect ratio.

    A square target scales the short side to floor(side / crop_pct) and cuts the long one off to a whole number; another
    target scales until both sides cover theirs, and rounds.
    """
    width, height = size
    wanted = math.floor(target[0] / crop_pct), math.floor(target[1] / crop_pct)
    if wanted[0] == wanted[1]:
        short, long = min(size), max(size)
        long = int(wanted[0] * long / short)
        return (wanted[0], long) if width <= height else (long, wanted[0])
    ratio = min(width / wanted[0], height / wanted[1])
    return round(width / ratio), round(height / ratio)
