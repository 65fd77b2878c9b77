"""Convolution of signs in 8-bit integers through oneDNN, which torch brings: the packed engine's stand-in without LLVM.

Signs are stored as 0, 1, 2 around a zero point of 1, which also pads; sums are integers and each is multiplied by its
channel's scale once, so the result has the bits of the float convolution followed by that product.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["SignConv", "is_available"]

ZERO = 1  # what stands for 0


class SignConv:
    """Convolution of the signs of its input with signs.

    Args:
        weight: (O, I, KH, KW) float of -1 and 1.
        scale: (O,) or broadcastable float32 factors of the output channels.
        stride: Of both sides.
        padding: Of both sides, with zeros.
    """

    def __init__(self, weight: Tensor, scale: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> None:
        self.made_of = weight, scale, stride, padding
        self.scale = scale.detach().float().reshape(-1).expand(len(weight)).contiguous()
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.geometry = (list(stride), list(padding), [1, 1], 1)  # stride, padding, dilation, groups
        self.packed = torch.ops.onednn.qconv_prepack(weight.to(torch.int8), self.scale, 1.0, ZERO, *self.geometry)

    def __reduce__(self) -> tuple[type["SignConv"], tuple[Any, ...]]:
        return type(self), self.made_of  # oneDNN's layout of the weights can be neither copied nor pickled

    def __call__(self, x: Tensor) -> Tensor:
        """(B, O, H', W') float32 of (B, I, H, W) float32, in the same memory format."""
        signs = x.sign().add_(ZERO).to(torch.uint8, memory_format=torch.channels_last)
        y = torch.ops.onednn.qconv2d_pointwise(
            signs, 1.0, ZERO, self.packed, self.scale, self.zeros, None, *self.geometry, 1.0, 0, torch.float32,
            "none", [], ""
        )  # fmt: skip
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        return y if is_last else y.contiguous()  # what sums over it keeps its order, and so its rounding


@cache
def is_available() -> bool:
    """Whether this torch has oneDNN's convolution in the form that is called here, and it counts right."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randint(-1, 2, (2, 24, 5, 6), generator=chance).float()
    weight = torch.randint(0, 2, (16, 24, 3, 3), generator=chance).float().mul_(2).sub_(1)
    scale = torch.rand(16, generator=chance)
    try:
        counted = SignConv(weight, scale, (2, 2), (1, 1))(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(counted, torch.conv2d(x, weight, None, 2, 1) * scale.view(-1, 1, 1))
