"""What the texture filter, or an application of it, made of one picture or one video."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import InputError, ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

__all__ = ["Filtered"]


@dataclass(frozen=True, eq=False, repr=False)
class Filtered:
    """A filtered picture or video; without pixels when it could not be used, and `error` says why.

    Attributes:
        source: Where the picture came from: a path, a URL, or what stands for a picture in memory.
        pixels: (H, W, 1 or 3), upright: uint8, uint16 or float32. Of a video, its first frame.
        before: The picture as it was read, the same shape.
        alpha: (H, W) transparency of the same type, untouched.
        profile: ICC profile of the source.
        is_linear: Whether the pixels are linear light of any range.
        was_linear: Whether those of `before` are.
        size: Width and height in pixels.
        parameters: What it was made with, plain values by name.
        frames: Frames of a video that were written; before an `error`, if it has one.
        path: The file it was written to.
        note: What was done beyond plain reading.
        error: Why there is no answer.
    """

    source: str
    pixels: NDArray[Any] | None = None
    before: NDArray[Any] | None = None
    alpha: NDArray[Any] | None = None
    profile: bytes | None = None
    is_linear: bool = False
    was_linear: bool = False
    size: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    frames: int | None = None
    path: str | None = None
    note: str | None = None
    error: ZooError | None = None

    def __post_init__(self) -> None:
        if self.error is None and self.pixels is None:
            raise ValueError("a result without pixels says its error")
        if self.pixels is not None and (self.pixels.ndim != 3 or self.pixels.shape[2] not in (1, 3)):
            raise ValueError(f"pixels are (H, W, 1 or 3); these are {self.pixels.shape}")
        if self.alpha is not None and (self.pixels is None or self.alpha.shape != self.pixels.shape[:2]):
            raise ValueError(f"alpha is {self.alpha.shape}; it is (H, W)")

    def __repr__(self) -> str:
        if self.error:
            return f"Filtered({self.source}: {self.error})"
        width, height = self.size or (0, 0)
        made = self.parameters.get("apply") or "filtered"
        return f"Filtered({self.source}: {made}, {width}x{height}{f', {self.frames} frames' if self.frames else ''})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: source, path, size, frames, parameters, note, error."""
        return {
            "source": self.source,
            "path": self.path,
            "size": list(self.size) if self.size else None,
            "frames": self.frames,
            "parameters": dict(self.parameters),
            "note": self.note,
            "error": self.error and self.error.to_dict(),
        }

    def image(self) -> "Image":
        """The picture for a screen: eight bits, grey or RGB, with its transparency.

        Linear light is scaled to its brightest value and gamma-encoded.

        Raises:
            ZooError: There is none.
        """
        return _screen(self._whole(self.pixels), self.alpha, self.is_linear)

    def before_image(self) -> "Image":
        """The picture as it was read, likewise.

        Raises:
            ZooError: There is none.
        """
        return _screen(self._whole(self.before), self.alpha, self.was_linear)

    def draw(self) -> "Image":
        """Before and after side by side, with a part of both enlarged below.

        Raises:
            ZooError: There is nothing to show.
        """
        from zoo.viz.compare import side_by_side

        name = PurePath(self.source).name or self.source
        return side_by_side(self.before_image(), self.image(), title=name, note=self.words())

    def words(self) -> str:
        """What it was made with, in one line."""
        shown = {
            key: value for key, value in self.parameters.items() if key in ("apply", "sigma_s", "sigma_r", "strength")
        }
        return ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:g}'}"
            for key, value in shown.items()
            if value is not None
        )

    def _whole(self, pixels: NDArray[Any] | None) -> NDArray[Any]:
        if self.error:
            raise self.error
        if pixels is None:
            raise InputError(f"{self.source} cannot be drawn", hint="this result does not know its picture")
        return pixels

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        if self.error:
            return Text.assemble((self.source, "bold"), (f"  {self.error}", "red"))
        where = f" -> {self.path}" if self.path else ""
        return Text.assemble((self.source, "bold"), where, (f"  {self.words()}", "dim"))


def _screen(pixels: NDArray[Any], alpha: NDArray[Any] | None, is_linear: bool) -> "Image":
    from PIL import Image

    parts = [_eight_bits(pixels, is_linear)]
    if alpha is not None:
        parts.append(_eight_bits(alpha[..., None], False))
    values = np.concatenate(parts, 2)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _eight_bits(values: NDArray[Any], is_linear: bool) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values / 65535 * 255 + 0.5).astype(np.uint8)
    shown = np.clip(values / max(float(values.max()), 1e-12), 0, 1) ** (1 / 2.2) if is_linear else np.clip(values, 0, 1)
    return (shown * 255 + 0.5).astype(np.uint8)
