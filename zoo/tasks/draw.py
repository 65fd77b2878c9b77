"""Drawn results as files: one each, under names of their own, whole or not at all."""

import io
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from zoo.errors import InputError, UsageError, ZooError, one_line
from zoo.hub.checkpoint import write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Drawings", "kind_of_picture", "output_folder", "save_picture", "stem_of"]


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
        output_folder(folder)

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
            part.replace(path)
        except OSError as error:
            for left in (path, path and path.with_suffix(".part")):
                if left:
                    left.unlink(missing_ok=True)
            return InputError(f"{result.source} was not drawn: {error.strerror or error}", hint="check the folder")
        return None

    def _reserve(self, source: str) -> Path:
        """An empty file of a free name: the source's, with -2, -3 ... behind it where that is taken."""
        stem = stem_of(source)
        while True:
            self._next[stem] += 1
            number = self._next[stem]
            path = self.folder / f"{stem}{f'-{number}' if number > 1 else ''}.png"
            try:
                path.open("x").close()
            except FileExistsError:
                continue
            return path


def output_folder(folder: Path) -> None:
    """Make a folder that results go into, before any work is done for them.

    Raises:
        UsageError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint="choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} may not be written to", hint="choose another folder")


def stem_of(source: str) -> str:
    """What a file made of a source is called, without its suffix: by the path or address, or what stands for either."""
    return PurePath(source.partition("?")[0]).stem[:100].strip("<>:. ") or "picture"


def kind_of_picture(out: Path) -> str:
    """Pillow's word for the kind of picture that a name stands for.

    Raises:
        UsageError: No such kind of picture.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(out.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise UsageError(f"{out}: no kind of picture that can be written", hint="call it .png or .jpg")
    return kind


def save_picture(draw: "Callable[[], Image]", out: Path, **options: Any) -> None:
    """Write a picture whole, as PNG, JPEG or what else its name says.

    Args:
        draw: Makes it; called once the name is known to be one of a picture.
        out: File.
        **options: For Pillow, such as `quality`.

    Raises:
        UsageError: No such kind of picture.
        ZooError: What `draw` raises; or, as an `InputError`, it cannot be written.
    """
    kind = kind_of_picture(out)
    picture, content = draw(), io.BytesIO()
    try:
        picture.save(content, kind, **options)
    except (OSError, ValueError) as error:  # a side beyond what the format holds
        raise InputError(f"{out}: {one_line(error)}", hint="call it .png") from None
    write_whole(out, content.getvalue())
