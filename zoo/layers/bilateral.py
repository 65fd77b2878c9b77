"""The joint bilateral filter, one weight for all channels, in plain torch; the twin of `zoo.kernels.bilateral`."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["joint_bilateral"]

AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}  # differences held at a time: on a CPU they should stay in its cache


def joint_bilateral(image: Tensor, guide: Tensor, radius: int, sigma_s: float, sigma_r: float) -> Tensor:
    """Average over a square window, cut off at the border, weighted by distance and by the guide's difference.

    Differentiable in both; the backward pass calculates the weights anew, so that memory stays a multiple of the image.

    Args:
        image: (B, C, H, W) floating point.
        guide: The same shape, device and dtype.
        radius: The window is 2 radius + 1 on a side.
        sigma_s: Standard deviation of the spatial weight in pixels.
        sigma_r: Standard deviation of the range weight; the distance is Euclidean over the channels.

    Returns:
        (B, C, H, W).
    """
    height, width = image.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    spatial = torch.exp(-0.5 * (offsets / sigma_s) ** 2).to(image)  # (2 radius + 1,)
    columns = torch.arange(width).unsqueeze(1) + torch.arange(-radius, radius + 1)
    inside = spatial * ((columns >= 0) & (columns < width)).to(image)  # (W, 2 radius + 1)
    image_padded, guide_padded = (F.pad(x, (radius, radius)) for x in (image, guide))
    room = AT_ONCE.get(image.device.type, 1 << 24)
    rows = max(1, room // (image.shape[0] * image.shape[1] * width * len(spatial)))
    strips = [
        _strip(image_padded, guide_padded, guide, inside, spatial, sigma_r, top, min(top + rows, height))
        for top in range(0, height, rows)
    ]
    return torch.cat(strips, 2)


def _strip(
    image: Tensor,
    guide: Tensor,
    middle: Tensor,
    inside: Tensor,
    spatial: Tensor,
    sigma_r: float,
    top: int,
    bottom: int,
) -> Tensor:
    """Output rows top to bottom; image and guide have `radius` further columns on both sides."""
    radius, height = len(spatial) // 2, image.shape[2]
    shape = (image.shape[0], image.shape[1], bottom - top, middle.shape[3])
    total, weights = image.new_zeros(shape), image.new_zeros((shape[0], 1, *shape[2:]))
    for dy in range(-radius, radius + 1):
        first, last = max(top, -dy), min(bottom, height - dy)
        if first >= last:
            continue
        near = slice(first + dy, last + dy)
        args = (image[:, :, near], guide[:, :, near], middle[:, :, first:last], inside * spatial[dy + radius], sigma_r)
        if torch.is_grad_enabled() and (image.requires_grad or guide.requires_grad):
            part, weight = checkpoint(_row_of_taps, *args, use_reentrant=False)
        else:
            part, weight = _row_of_taps(*args)
        beside = (0, 0, first - top, bottom - last)
        total, weights = total + F.pad(part, beside), weights + F.pad(weight, beside)
    return total / weights


def _row_of_taps(image: Tensor, guide: Tensor, middle: Tensor, inside: Tensor, sigma_r: float) -> tuple[Tensor, Tensor]:
    """Sums over 2 radius + 1 neighbours of one row: (B, C, rows, W) weighted values, (B, 1, rows, W) weights."""
    taps = inside.shape[1]
    difference = guide.unfold(3, taps, 1) - middle.unsqueeze(-1)  # (B, C, rows, W, taps)
    distance = difference.square().sum(1, keepdim=True)
    weight = torch.exp(distance * (-0.5 / sigma_r**2)) * inside
    return (weight * image.unfold(3, taps, 1)).sum(-1), weight.sum(-1)
