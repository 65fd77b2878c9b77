"""Pyramid texture filter: structure stays, texture goes; no weights, nothing learned.

Q. Zhang, H. Jiang, Y. Nie, W.-S. Zheng, "Pyramid Texture Filtering", ACM Transactions on Graphics 42(4), 2023,
arXiv:2305.06525. The coarsest level of a Gaussian pyramid has lost the texture. It is brought back up level by level,
each time through three joint bilateral filters: the first, guided by the Gaussian level, gives it sharp edges; the
second takes away the texture that comes back with the Laplacian level; the third cleans up.

Numbers are those of the authors' last published code: to rounding, in float64 and float32 alike.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.kernels import bilateral as kernels
from zoo.kernels.native import NoKernels
from zoo.layers.bilateral import joint_bilateral
from zoo.layers.pyramid import blurred_enlargement, blurred_reduction, enlargement, resample

__all__ = ["Backend", "Levels", "PyramidTextureFilter", "level_sizes", "pick_engine", "pyramid_texture_filter"]

Levels = int | Literal["auto"]
Backend = Literal["auto", "native", "torch"]
COARSE = 64  # pixels of the long side that `levels="auto"` goes down to


class Engine(NamedTuple):
    """What the filter is made of, and who does it: "native" or "torch"."""

    name: str
    joint_bilateral: Callable[..., Tensor]
    resample: Callable[..., Tensor]


TORCH = Engine("torch", joint_bilateral, resample)
NATIVE = Engine("native", kernels.joint_bilateral, kernels.resample)


def pick_engine(backend: Backend, x: Tensor) -> Engine:
    """Compiled loops where they can do it, plain torch elsewhere: on other devices, for gradients, without llvmlite.

    Raises:
        ValueError: "native" was asked for and cannot be had, or there is no such backend.
    """
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"no backend {backend!r}; auto, native or torch")
    if backend == "torch":
        return TORCH
    try:
        if x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad):
            raise NoKernels("compiled loops run on the CPU, and know no gradients")
        kernels.load()
    except NoKernels as error:
        if backend == "native":
            raise ValueError(f"no native backend: {error}") from error
        return TORCH
    return NATIVE


def level_sizes(height: int, width: int, levels: Levels = 11, scale: float = 0.8) -> list[tuple[int, int]]:
    """Height and width of each pyramid level, finest first.

    Fewer than `levels` where the next one would have no pixel. "auto" goes on until the long side is at most 64.
    """
    sizes = [(height, width)]
    while len(sizes) != levels:
        size = math.floor(sizes[-1][0] * scale), math.floor(sizes[-1][1] * scale)
        if min(size) < 1 or (levels == "auto" and max(sizes[-1]) <= COARSE):
            break
        sizes.append(size)
    return sizes


class PyramidTextureFilter(nn.Module):
    """The filter as a module without parameters.

    Args:
        sigma_s: Scale of the texture removed, in pixels; 3 to 15.
        sigma_r: Contrast below which an edge is texture, in the image's unit; 0.02 to 0.09.
        levels: Pyramid levels, or "auto": as many as bring the long side to 64 pixels.
        scale: From a level to the next.
        window: Half-width of the wide windows, in spatial sigmas. 2 is the authors'; less is faster and another filter.
        backend: "native" for the compiled loops, "torch", or "auto" for the faster one that can do it.

    Raises:
        ValueError: A parameter out of range.
    """

    def __init__(
        self,
        sigma_s: float = 5.0,
        sigma_r: float = 0.05,
        levels: Levels = 11,
        scale: float = 0.8,
        window: float = 2.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if not (0 < sigma_s < math.inf and 0 < sigma_r < math.inf):
            raise ValueError(f"sigma_s and sigma_r are positive; they are {sigma_s:g} and {sigma_r:g}")
        if not 0 < scale < 1:
            raise ValueError(f"scale lies between 0 and 1; it is {scale:g}")
        if not 0 < window < math.inf:
            raise ValueError(f"window is positive; it is {window:g}")
        if levels != "auto" and not (isinstance(levels, int) and levels >= 1):
            raise ValueError(f"levels is a whole number from 1, or auto; it is {levels!r}")
        self.sigma_s, self.sigma_r = sigma_s, sigma_r
        self.levels, self.scale = levels, scale
        self.window = window
        self.backend = backend

    def extra_repr(self) -> str:
        return f"sigma_s={self.sigma_s:g}, sigma_r={self.sigma_r:g}, levels={self.levels}, scale={self.scale:g}"

    def forward(self, x: Tensor) -> Tensor:
        """The filtered image, not clipped; it may leave the range of `x` a little.

        Args:
            x: (B, C, H, W), nominal range [0, 1], gamma-encoded as stored; C is 3, or 1 for grey. Half precision is
                filtered in float32.

        Returns:
            The same shape and dtype; differentiable.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point() or not x.numel():
            raise ValueError(f"(B, 1 or 3, H, W) of floating point; this is {x.dtype} {tuple(x.shape)}")
        engine = pick_engine(self.backend, x)
        finest = x if x.dtype in (torch.float32, torch.float64) else x.float()
        gauss = [finest]
        for size in level_sizes(x.shape[-2], x.shape[-1], self.levels, self.scale)[1:]:
            gauss.append(_resized(engine, gauss[-1], size, blurred_reduction))
        # grey stands for three equal channels: the distance is 3 d^2
        sigma_r = self.sigma_r / math.sqrt(3 / x.shape[1])
        result = coarse = gauss.pop()
        while gauss:
            sigma_s = self.sigma_s * self.scale ** (len(gauss) - 1)
            fine = gauss.pop()
            narrow, wide = math.ceil(0.5 * sigma_s + 1), math.ceil(self.window * sigma_s + 1)
            smooth = partial(engine.joint_bilateral, sigma_s=sigma_s, sigma_r=sigma_r)
            size = (fine.shape[-2], fine.shape[-1])
            guided = smooth(_resized(engine, result, size, enlargement), fine, narrow)
            laplacian = fine - _resized(engine, coarse, size, blurred_enlargement)
            result = smooth(guided + laplacian, guided, wide)
            del guided, laplacian
            result = smooth(result, result, wide)
            coarse = fine
        return result.to(x.dtype)


def _resized(engine: Engine, x: Tensor, size: tuple[int, int], how: Callable[[int, int], Any]) -> Tensor:
    return engine.resample(x, how(x.shape[-2], size[0]), how(x.shape[-1], size[1]))


def pyramid_texture_filter(
    pretrained: bool = False, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> PyramidTextureFilter:
    """The filter with the authors' defaults; there are no weights to load."""
    return PyramidTextureFilter(**kwargs)
