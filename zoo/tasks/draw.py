"""Drawn results as files: one each, under names of their own, whole or not at all."""

import os
from collections import defaultdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol

from zoo.errors import InputError, UsageError, ZooError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Drawings"]


class Drawable(Protocol):
    """A result that becomes a picture."""

    @property
    def source(self) -> str:
        """What it is the result of."""
        ...

    def draw(self) -> "Image":
        """The picture."""
        ...


class Drawings:
    """Writes drawn results into a folder as PNG; nothing that is there already is overwritten.

    Args:
        folder: Made if missing.

    Raises:
        UsageError: It cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # numbers tried for a name: a search from 1 each time is quadratic
        self._next: defaultdict[str, int] = defaultdict(int)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be made: {error.strerror}", hint="choose another --draw folder"
            ) from None
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{folder} may not be written to", hint="choose another --draw folder")

    def add(self, result: Drawable) -> ZooError | None:
        """Draw one result; returns what kept it from being written."""
        try:
            picture = result.draw()
        except ZooError as error:
            return error
        path = None
        try:
            path = self._reserve(result.source)
            part = path.with_suffix(".part")
            picture.save(part, "PNG")
            os.replace(part, path)  # noqa: PTH105 - named as in the house style
        except OSError as error:
            for left in (path, path and path.with_suffix(".part")):
                if left:
                    left.unlink(missing_ok=True)
            return InputError(
                f"{result.source} was not drawn: {error.strerror or error}", hint="check the --draw folder"
            )
        return None

    def _reserve(self, source: str) -> Path:
        """An empty file of a free name: the source's, with -2, -3 ... behind it where that is taken."""
        stem = PurePath(source.split("?")[0]).stem[:100].strip("<>:. ") or "picture"
        while True:
            self._next[stem] += 1
            number = self._next[stem]
            path = self.folder / f"{stem}{f'-{number}' if number > 1 else ''}.png"
            try:
                path.open("x").close()
            except FileExistsError:
                continue
            return path
