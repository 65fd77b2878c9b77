"""Texture filtering: one call for arrays and tensors, and pictures in, pictures out."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images import Item, Source
from zoo.data.rasters import Raster, from_image, read_raster
from zoo.errors import InputError, UsageError, ZooError
from zoo.models import texture_applications as applications
from zoo.models.pyramid_texture import Backend, Levels, PyramidTextureFilter, level_sizes, pick_engine
from zoo.results.filtered import Filtered
from zoo.tasks.device import pick_device

__all__ = [
    "APPLICATIONS",
    "FAST_WINDOW",
    "FilterPipeline",
    "FilterSettings",
    "filter_pipeline",
    "middle",
    "name_of",
    "texture_filter",
]

APPLICATIONS: dict[str, Callable[..., Tensor]] = {
    "enhance": applications.enhance,
    "abstract": applications.abstract,
    "tonemap": applications.tonemap,
    "halftone": applications.halftone,
    "lowlight": applications.lowlight,
}
NEARNESS = 256  # pixels a side on which the fast filter is compared to the exact one
FAST_WINDOW = 1.25  # of `--fast`, in spatial sigmas, in place of 2
FULL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}  # what 1 is stored as

Image = TypeVar("Image", NDArray[Any], Tensor)


def texture_filter(
    image: Image,
    sigma_s: float = 5.0,
    sigma_r: float = 0.05,
    levels: Levels = 11,
    scale: float = 0.8,
    *,
    backend: Backend = "auto",
    device: str | None = None,
) -> Image:
    """The picture without its texture, its structure kept: Zhang et al., "Pyramid Texture Filtering", 2023.

    The same kind comes back. float32 and half precision are filtered in float32, float64 in float64, whole numbers as
    their share of the type's range in float32; results of whole numbers are clipped and rounded, floats are not clipped
    and may leave the range of the input a little. A tensor's gradient is kept.

    Args:
        image: An array (H, W) or (H, W, 1 to 4), a tensor (H, W), (C, H, W) or (B, C, H, W); uint8, uint16 (array) or
            float in about [0, 1], as stored (gamma-encoded). A second or fourth channel is transparency and untouched.
        sigma_s: Scale of the texture that goes, in pixels; 3 to 15.
        sigma_r: Contrast below which an edge is texture, in the unit of the (float) image; 0.02 to 0.09.
        levels: Pyramid levels; "auto" suits photographs with more than 800 pixels on the long side.
        scale: From a level to the next.
        backend: "auto", "native" (compiled for this CPU) or "torch".
        device: Where to calculate: "auto", "cpu", "cuda", ...; by default where the image is.

    Raises:
        InputError: No image that can be filtered, or one with values that are not finite.
        UsageError: A parameter out of range, or no such device.
    """
    model = _model(sigma_s, sigma_r, levels, scale, backend=backend)
    if isinstance(image, Tensor):
        return _filter_tensor(model, image, device)
    array = np.asarray(image)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] > 4):
        raise InputError(f"an image of the shape {array.shape}", hint="(height, width) or (height, width, 1 to 4)")
    _check_finite(array, "the image")
    values = array.reshape(*array.shape[:2], -1)
    colours = 1 if values.shape[2] < 3 else 3
    filtered = _restored(_run(model, _planes(values[..., :colours]), device), array.dtype)
    return np.concatenate([filtered, values[..., colours:]], 2).reshape(array.shape)


def _filter_tensor(model: PyramidTextureFilter, image: Tensor, device: str | None) -> Tensor:
    if image.ndim not in (2, 3, 4) or not image.numel() or (image.ndim > 2 and image.shape[-3] > 4):
        raise InputError(
            f"a tensor of the shape {tuple(image.shape)}", hint="(H, W), (1 to 4, H, W) or (B, 1 to 4, H, W)"
        )
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise InputError(f"a tensor of {image.dtype}", hint="uint8, or floating point in about [0, 1]")
    if not image.isfinite().all():
        bad = image.isfinite().logical_not()
        raise _not_finite("the tensor", int(bad.sum()), bad.nonzero()[0].tolist())
    batch = image.reshape(-1, *((1,) if image.ndim == 2 else image.shape[-3:-2]), *image.shape[-2:])
    colours = 1 if batch.shape[1] < 3 else 3
    values = batch[:, :colours] if image.is_floating_point() else batch[:, :colours] / 255
    filtered = _run(model, values, device)
    if image.dtype == torch.uint8:
        filtered = (filtered * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return torch.cat([filtered.to(image.dtype), batch[:, colours:]], 1).reshape(image.shape)


def _model(
    sigma_s: float, sigma_r: float, levels: Levels, scale: float, *, window: float = 2.0, backend: Backend = "auto"
) -> PyramidTextureFilter:
    try:
        model = PyramidTextureFilter(sigma_s, sigma_r, levels, scale, window, backend)
        pick_engine(backend, torch.empty(0))
    except ValueError as error:
        raise UsageError(str(error), hint="the defaults are sigma_s 5, sigma_r 0.05, levels 11, scale 0.8") from None
    return model


def _run(model: PyramidTextureFilter, planes: Tensor, device: str | None) -> Tensor:
    """Filter on a device and bring the result back."""
    there = planes if device is None else planes.to(pick_device(device))
    return model(there).to(planes.device)


def _planes(values: NDArray[Any]) -> Tensor:
    """(1, C, H, W) float of an array (H, W, C) of any of our types."""
    if (
        values.dtype.kind not in "uf"
        or values.dtype.itemsize > 8
        or (values.dtype.kind == "u" and values.dtype not in FULL)
    ):
        raise InputError(f"an image of {values.dtype}", hint="uint8, uint16, or floating point in about [0, 1]")
    kind = np.float64 if values.dtype == np.float64 else np.float32
    planes = torch.from_numpy(np.array(np.moveaxis(values, 2, 0), dtype=kind, order="C")).unsqueeze(0)
    return planes.div_(FULL[values.dtype]) if values.dtype in FULL else planes


def _restored(planes: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(H, W, C) of a type; whole numbers are rounded half up. The planes are used up."""
    values = planes[0].permute(1, 2, 0).cpu()
    if dtype in FULL:
        values = values.mul_(FULL[dtype]).add_(0.5).clamp_(0, FULL[dtype] + 0.5)
    return values.numpy().astype(dtype)


def _check_finite(values: NDArray[Any], name: str) -> None:
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if not finite.all():
        raise _not_finite(name, int(values.size - finite.sum()), np.argwhere(~finite)[0].tolist())


def _not_finite(name: str, count: int, first: list[int]) -> InputError:
    where = ", ".join(map(str, first))
    return InputError(
        f"{name} has values that are not finite: {count}, the first at ({where})",
        hint="replace them first; on the command line, --nan clip does",
    )


@dataclass(frozen=True)
class FilterSettings:
    """What a pipeline does to each picture.

    Attributes:
        apply: An application, or None for the filter alone.
        strength: Of the application; None is its default.
        sigma_s: None is 5, for a halftone and a drawing 3.
        sigma_r: None is 0.05, for a halftone and a drawing 0.03.
        levels: Pyramid levels.
        scale: From a level to the next.
        luma: `enhance` works on the luma alone.
        lines: `abstract` draws lines.
        quantise: `abstract` reduces lightness to steps.
        nan: "refuse" values that are not finite, or "clip" them to the largest finite one.
        fast: Narrower windows: faster, and not the exact filter.
    """

    apply: str | None = None
    strength: float | None = None
    sigma_s: float | None = None
    sigma_r: float | None = None
    levels: Levels = 11
    scale: float = 0.8
    luma: bool = False
    lines: bool = True
    quantise: bool = True
    nan: str = "refuse"
    fast: bool = False

    def __post_init__(self) -> None:
        if self.apply is not None and self.apply not in APPLICATIONS:
            raise UsageError(f"no application {self.apply!r}", hint=", ".join(APPLICATIONS))
        if self.strength is not None and (self.apply is None or not 0 <= self.strength < float("inf")):
            raise UsageError(
                f"strength {self.strength:g} {'without an application' if self.apply is None else 'is no strength'}",
                hint="--apply enhance --strength 3",
            )
        if self.strength is not None and self.apply in ("abstract", "tonemap") and self.strength <= 1:
            raise UsageError(f"strength {self.strength:g} of {self.apply}", hint="it is more than 1; see --help")
        for name, application in (("luma", "enhance"), ("lines", "abstract"), ("quantise", "abstract")):
            if getattr(self, name) != getattr(FilterSettings, name) and self.apply != application:
                raise UsageError(f"{name} belongs to {application}", hint=f"--apply {application}")
        if self.nan not in ("refuse", "clip"):
            raise UsageError(f"no way {self.nan!r} to treat values that are not finite", hint="refuse or clip")

    @property
    def sigmas(self) -> tuple[float, float]:
        """sigma_s and sigma_r, defaults filled in."""
        spatial, contrast = (3.0, 0.03) if self.apply in ("halftone", "abstract") else (5.0, 0.05)
        return (
            spatial if self.sigma_s is None else self.sigma_s,
            contrast if self.sigma_r is None else self.sigma_r,
        )

    def model(self, backend: Backend = "auto") -> PyramidTextureFilter:
        """The filter.

        Raises:
            UsageError: A parameter out of range.
        """
        window = FAST_WINDOW if self.fast else 2.0
        return _model(*self.sigmas, self.levels, self.scale, window=window, backend=backend)

    def facts(self, height: int, width: int) -> dict[str, Any]:
        """What goes into a result: plain values by name."""
        from zoo import __version__

        spatial, contrast = self.sigmas
        return {
            "apply": self.apply,
            "strength": self.strength,
            "sigma_s": spatial,
            "sigma_r": contrast,
            "levels": self.levels,
            "levels_used": len(level_sizes(height, width, self.levels, self.scale)),
            "scale": self.scale,
            "fast": self.fast,
            "version": __version__,
        }


class FilterPipeline:
    """Pictures in, filtered pictures out.

    Called with one picture (a path, an address, a Pillow picture, an array (H, W) or (H, W, 1 to 4)) it returns the
    result and raises the `InputError` of a bad one. Called with an iterable of pictures it returns a generator of
    results, in order; a bad picture gives a result with `.error`.

    Args:
        settings: What to do.
        device: Where; "auto" takes CUDA, then MPS, then the CPU.
        backend: See `texture_filter`.
    """

    def __init__(self, settings: FilterSettings, *, device: str = "auto", backend: Backend = "auto") -> None:
        self.settings = settings
        self.device = pick_device(device)
        self.model = settings.model(backend)

    def __repr__(self) -> str:
        return f"FilterPipeline({self.settings.apply or 'filter'}, {self.model.extra_repr()}, {self.device})"

    @overload
    def __call__(self, inputs: Source) -> Filtered: ...
    @overload
    def __call__(self, inputs: Iterable[Item]) -> Iterator[Filtered]: ...
    @overload
    def __call__(self, inputs: Any) -> Any: ...
    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, str | os.PathLike | np.ndarray) or hasattr(inputs, "getexif"):
            return self.filtered(self.read(inputs), name_of(inputs))
        if not isinstance(inputs, Iterable):
            raise InputError(
                f"a picture cannot be a {type(inputs).__name__}",
                hint="a path, an address, a Pillow picture or an array",
            )
        return (self._or_error(item) for item in inputs)

    def _or_error(self, item: Item) -> Filtered:
        try:
            if isinstance(item, ZooError):
                raise item
            return self.filtered(self.read(item), name_of(item))
        except InputError as error:
            return Filtered(name_of(item), error=error)

    def read(self, item: Any) -> Raster:
        """One input as the filter takes it.

        Raises:
            InputError: It cannot be had, or is no picture that can be filtered.
        """
        source = name_of(item)
        return _finite(_raster(item, source), source, self.settings.nan)

    def filtered(self, raster: Raster, source: str) -> Filtered:
        """The result of one picture.

        Raises:
            InputError: The application wants another kind of picture.
        """
        height, width = raster.pixels.shape[:2]
        alpha = raster.alpha
        if alpha is not None and alpha.dtype != self.dtype(raster):
            alpha = (np.clip(alpha, 0, 1) * 65535 + 0.5).astype(np.uint16)
        return Filtered(
            source,
            self.pixels(raster, source),
            raster.pixels,
            alpha,
            raster.profile,
            raster.is_linear and self.settings.apply is None,
            raster.is_linear,
            (width, height),
            self.facts(raster),
            note=raster.note,
        )

    def facts(self, raster: Raster) -> dict[str, Any]:
        """What a result was made with; with `fast`, how near it is to the exact filter."""
        facts = self.settings.facts(*raster.pixels.shape[:2])
        if self.settings.fast:
            facts["fast_psnr_db"] = round(self._nearness(raster), 1)
        return facts

    @torch.inference_mode()
    def _nearness(self, raster: Raster) -> float:
        """PSNR in dB of the fast filter against the exact one, in the middle of a picture."""
        x = _planes(middle(raster, NEARNESS).pixels).to(self.device)
        exact = replace(self.settings, fast=False).model(self.model.backend)
        peak = float(x.max() - x.min()) if raster.is_linear else 1.0
        error = float((self.model(x) - exact(x)).double().square().mean())
        return 10 * math.log10(max(peak, 1e-12) ** 2 / max(error, 1e-20))

    def dtype(self, raster: Raster) -> np.dtype[Any]:
        """Type of a result's pixels: the picture's own; 16 bits where light is mapped to the screen."""
        mapped = raster.is_linear and self.settings.apply is not None
        return np.dtype(np.uint16) if mapped else raster.pixels.dtype

    @torch.inference_mode()
    def pixels(self, raster: Raster, source: str) -> NDArray[Any]:
        """The filtered pixels of one picture, of the type that `dtype` says.

        Raises:
            InputError: The application wants another kind of picture.
        """
        settings = self.settings
        if raster.is_linear and settings.apply not in (None, "tonemap"):
            raise InputError(
                f"{source} holds linear light, which {settings.apply} cannot use", hint="--apply tonemap, then that"
            )
        x = _planes(raster.pixels).to(self.device)
        if settings.apply is None:
            return _restored(self.model(x), raster.pixels.dtype)
        if settings.apply == "tonemap" and not raster.is_linear:
            x = applications.to_linear(x)
        return _restored(self._application()(x, self.model), self.dtype(raster))

    def _application(self) -> "partial[Tensor]":
        settings = self.settings
        options: dict[str, Any] = {}
        if settings.strength is not None:
            options["strength"] = settings.strength
        if settings.apply == "enhance":
            options["luma"] = settings.luma
        if settings.apply == "abstract":
            options |= {"lines": settings.lines, "quantise": settings.quantise}
        return partial(APPLICATIONS[str(settings.apply)], **options)


def middle(raster: Raster, side: int) -> Raster:
    """The middle of a picture, at most `side` pixels a side."""
    height, width = raster.pixels.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = (slice(top, top + side), slice(left, left + side))
    alpha = None if raster.alpha is None else raster.alpha[part]
    return replace(raster, pixels=raster.pixels[part], alpha=alpha)


def filter_pipeline(*, device: str = "auto", backend: Backend = "auto", **settings: Any) -> FilterPipeline:
    """A pipeline from the fields of `FilterSettings`.

    Raises:
        UsageError: A parameter out of range.
    """
    return FilterPipeline(FilterSettings(**settings), device=device, backend=backend)


def name_of(item: Any) -> str:
    """What results call an input."""
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if isinstance(item, ZooError):
        return item.source or item.message.partition(":")[0]
    return f"<{type(item).__name__}>"


def _raster(item: Any, source: str) -> Raster:
    if isinstance(item, str | os.PathLike):
        return read_raster(item)
    if hasattr(item, "getexif"):  # a Pillow picture
        return from_image(item, source)
    values = np.asarray(item)
    if values.ndim not in (2, 3) or not values.size or (values.ndim == 3 and values.shape[2] > 4):
        raise InputError(f"{source} has the shape {values.shape}", hint="(height, width) or (height, width, 1 to 4)")
    values = values.reshape(*values.shape[:2], -1)
    colours = 1 if values.shape[2] < 3 else 3
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    return Raster(values[..., :colours], alpha)


def _finite(raster: Raster, source: str, nan: str) -> Raster:
    """The picture, or with `nan` "clip" the picture with its bad values replaced by the largest good one."""
    if nan == "clip" and raster.pixels.dtype.kind == "f":
        finite = np.isfinite(raster.pixels)
        if not finite.all():
            largest = raster.pixels[finite].max() if finite.any() else 0.0
            count = int(finite.size - finite.sum())
            return replace(raster, pixels=np.where(finite, raster.pixels, largest), note=f"values clipped: {count}")
    _check_finite(raster.pixels, source)
    return raster
