"""Binarised convolutions and the estimators that train them.

X.-M. Wu, D. Zheng, Z. Liu, W.-S. Zheng, "Estimator Meets Equilibrium Perspective: A Rectified Straight Through
Estimator for Binary Neural Networks Training", ICCV 2023, arXiv:2308.06689.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BinaryConv2d", "binarize", "reste_power"]

Estimator = Literal["reste", "ste"]

FLAT = 0.1  # m in the paper: below it the slope of the power function is replaced by its secant
CUT = 1.5  # t in the paper: beyond it no gradient passes
STE_CUT = 1.0  # plain straight-through estimators cut at 1


def reste_power(epoch: float, epochs: int, end: float = 3.0) -> float:
    """Power `o` of the estimator at the start of an epoch: 1 (straight-through) growing to almost `end` (near sign).

    Args:
        epoch: Epochs done, 0 ≤ epoch ≤ epochs.
        epochs: Length of the training.
        end: Power that the schedule approaches; 3 in all published results.

    Raises:
        ValueError: The epoch lies outside the training, or `end` is below 1.
    """
    if not 0 <= epoch <= epochs:
        raise ValueError(f"epoch {epoch} is outside a training of {epochs} epochs")
    if end < 1:
        raise ValueError(f"end is {end}; the estimator needs a power of at least 1")
    return 1 + (1 - math.cos(math.pi / 2 * epoch / max(epochs, 1))) * (end - 1)


class _ReSTE(torch.autograd.Function):
    """sign(z) whose derivative is that of sign(z)|z|^(1/o), flat below `FLAT` and cut above `CUT`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, power: Tensor) -> Tensor:
        ctx.save_for_backward(z, power)
        return torch.sign(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        z, power = ctx.saved_tensors
        size = z.abs()
        power = power.float()  # the exponents are float32 even when z is float64, as in the published code
        inverse = (1 / power).to(torch.promote_types(z.dtype, torch.float32))
        flat = (FLAT**inverse / FLAT).to(z.dtype)
        slope = inverse.to(z.dtype) * size.clamp(min=FLAT) ** ((1 - power) / power).to(z.dtype)
        slope = torch.where(size <= FLAT, flat, slope)
        return grad * torch.where(size <= CUT, slope, 0), None


class _STE(torch.autograd.Function):
    """sign(z) with derivative 1 where |z| ≤ 1 and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.sign(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return torch.where(z.abs() <= STE_CUT, grad, 0)


def binarize(z: Tensor, power: Tensor | float = 1.0, estimator: Estimator = "reste") -> Tensor:
    """Signs of `z`, with sign(0) = 0, differentiable through an estimator (section 3 of the paper).

    Args:
        z: Any shape.
        power: `o` of the ReSTE estimator, at least 1; unused by the plain one.
        estimator: "reste", or "ste" for the plain straight-through estimator.
    """
    if estimator == "ste":
        return _STE.apply(z)
    return _ReSTE.apply(z, torch.as_tensor(power, dtype=torch.float32, device=z.device))


class BinaryConv2d(nn.Conv2d):
    """Convolution of signs: `conv(sign(x), sign(W)) * mean(|W|)`, zero padding, no bias.

    The scale is one number a layer, is recomputed from the latent float weights and carries gradient to them.

    The published code multiplies the scale into the weights first. Here it comes after the convolution, so that the
    accumulators are exact integers: an accumulator of 0 is then exactly 0 at the ReLU behind it instead of rounding
    noise of either sign, and gradients do not depend on the order of summation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel.
        stride: Step of the kernel.
        padding: Zeros around the input, added after its signs were taken.
        act_bits: 1 takes the sign of the input, 32 leaves it real.
        estimator: Gradient of the sign, see `binarize`.
        scale_in_weight: The published order of multiplication, for comparison.
    """

    power: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        act_bits: int = 1,
        estimator: Estimator = "reste",
        scale_in_weight: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        if act_bits not in (1, 32):
            raise ValueError(f"act_bits is {act_bits}; 1 and 32 exist")
        if estimator not in ("reste", "ste"):
            raise ValueError(f"estimator is {estimator!r}; 'reste' and 'ste' exist")
        self.act_bits = act_bits
        self.estimator: Estimator = estimator
        self.scale_in_weight = scale_in_weight
        # A buffer, not a float: a compiled graph need not be rebuilt when the schedule moves it.
        self.register_buffer("power", torch.ones(()), persistent=False)

    @property
    def scale(self) -> Tensor:
        """mean(|W|), a scalar."""
        return self.weight.abs().mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.act_bits == 1:
            x = binarize(x, self.power, self.estimator)
        weight = binarize(self.weight, self.power, self.estimator)
        if self.scale_in_weight:
            return F.conv2d(x, weight * self.scale, None, self.stride, self.padding)
        return F.conv2d(x, weight, None, self.stride, self.padding) * self.scale

    def extra_repr(self) -> str:
        shape = super().extra_repr()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return f"{shape}, act_bits={self.act_bits}, estimator={self.estimator}"
