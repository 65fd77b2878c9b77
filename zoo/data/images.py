"""Pictures: what an argument stands for, and how one becomes upright RGB of eight bits.

Nothing here imports torch, so that a worker process that decodes starts in a tenth of a second.
"""

import glob
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np

from zoo import settings
from zoo.data.stores import is_store, list_files, read_bytes
from zoo.data.urls import fetch, is_url
from zoo.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SUFFIXES",
    "Encoded",
    "Item",
    "Picture",
    "Source",
    "check_size",
    "expand",
    "frames_note",
    "from_array",
    "open_image",
    "open_source",
    "orientation",
    "read_picture",
]

SUFFIXES = frozenset(
    [
        ".apng",
        ".avif",
        ".avifs",
        ".bmp",
        ".dib",
        ".gif",
        ".ico",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
MAX_ASPECT = 100
PHONE = (b"heic", b"heix", b"heim", b"heis", b"mif1")  # brands of HEIF files
MATROSKA = b"\x1aE\xdf\xa3"
ORIENTATION = 0x0112  # the EXIF tag

T = TypeVar("T")
Source = str | os.PathLike[str]
# a Source, an Encoded, a PIL picture, an array (H, W, C) of uint8, or the InputError that stands in a bad one's place
Item = Any


@dataclass(frozen=True)
class Encoded:
    """The bytes of a picture's file, and what results call it."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: Upright, RGB, eight bits.
        note: What was done beyond plain decoding.
    """

    image: "Image"
    note: str | None = None


def expand(
    inputs: Iterable[Source], stdin: TextIO | None = None, suffixes: Set[str] = SUFFIXES
) -> Iterator[str | InputError]:
    """The single pictures that arguments stand for, one at a time and in order.

    Args:
        inputs: Files, folders (searched to the bottom, sorted by name), globs, http(s) addresses, the same in a store
            (`s3://bucket/folder`), or "-" for a list of any of these on standard input, one a line.
        stdin: What "-" reads, by default the process's own.
        suffixes: Of the files that are looked for in folders.

    Yields:
        A path or address, not yet opened; or an InputError for a folder or a glob without a picture.
    """
    for given in inputs:
        text = os.fspath(given)
        if text == "-":
            for line in stdin or sys.stdin:
                if entry := line.rstrip("\r\n"):
                    yield from _expand_one(entry, suffixes)
        else:
            yield from _expand_one(text, suffixes)


def _expand_one(text: str, suffixes: Set[str]) -> Iterator[str | InputError]:
    if is_url(text):
        yield text
    elif is_store(text):
        try:
            yield from list_files(text, suffixes)
        except InputError as error:
            error.source = text
            yield error
    elif os.path.isdir(text):  # noqa: PTH112 - a path with a null byte is a missing file here, not a ValueError
        yield from _or_error(
            _walk(text, suffixes), text, "no picture in this folder", f"looked for {', '.join(sorted(suffixes))}"
        )
    elif glob.has_magic(text) and not os.path.lexists(text):
        yield from _or_error(
            _matches(text, suffixes), text, "nothing matches", "quote the pattern; ** also looks into folders"
        )
    else:
        yield text


def _or_error(found: Iterator[str], text: str, fault: str, hint: str) -> Iterator[str | InputError]:
    empty = True
    for path in found:
        empty = False
        yield path
    if empty:
        yield InputError(f"{text}: {fault}", hint=hint, source=text)


def _walk(folder: str, suffixes: Set[str]) -> Iterator[str]:
    """Pictures of a folder and the folders in it, by name; hidden entries and links to folders are left out."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
    except PermissionError:
        return
    for name, is_folder in listed:
        path = os.path.join(folder, name)  # noqa: PTH118 - a Path an entry costs more than the rest of the loop
        if is_folder:
            yield from _walk(path, suffixes)
        elif _has_suffix(name, suffixes):
            yield path


def _matches(pattern: str, suffixes: Set[str]) -> Iterator[str]:
    any_suffix = glob.has_magic(Path(pattern).suffix) or not Path(pattern).suffix
    for path in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        if os.path.isdir(path):  # noqa: PTH112
            if "**" not in pattern:  # there the files of the folder match by themselves
                yield from _walk(path, suffixes)
        elif not any_suffix or _has_suffix(path, suffixes):
            yield path


def _has_suffix(name: str, suffixes: Set[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122


def read_picture(source: Source | bytes, *, name: str | None = None) -> Picture:
    """Decode one picture.

    Animations and documents give their first frame, transparent parts become white, 16-bit values are scaled to eight
    bits, and the EXIF orientation is applied.

    Args:
        source: A path, an http(s) address, or the bytes of a file.
        name: What errors call it; by default the path or the address.

    Raises:
        InputError: It cannot be had, is no picture, is damaged, or exceeds a limit; one line says which.
    """
    return open_source(source, name, _decode)


def open_source(source: Source | bytes, name: str | None, decode: Callable[[Any, str], T]) -> T:
    """What `decode(file, name)` makes of a source; the arguments and errors of `read_picture`."""
    name = name or ("the picture" if isinstance(source, bytes) else os.fspath(source))
    if isinstance(source, bytes):
        return decode(io.BytesIO(source), name)
    text = os.fspath(source)
    if is_url(text):
        return decode(io.BytesIO(fetch(text)), name)
    if is_store(text):
        return decode(io.BytesIO(read_bytes(text)), name)
    try:
        status = os.stat(text)  # noqa: PTH116 - see _walk
        if stat.S_ISDIR(status.st_mode):
            raise InputError(
                f"{name} is a folder", hint="give a file, or expand it first: zoo.data.images.expand([folder])"
            )
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name} is no regular file", hint="pipes and devices are not read; give a file")
        with open(text, "rb") as file:  # noqa: PTH123
            return decode(file, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file", hint=_nearest(text)) from None
    except PermissionError:
        raise InputError(f"{name} may not be read", hint="check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(
            f"{name} cannot be opened: {getattr(error, 'strerror', None) or error}", hint="check the path"
        ) from None


def from_array(array: Any, name: str) -> Picture:
    """A picture from an array.

    Args:
        array: (H, W, 3), (H, W, 1) or (H, W) of uint8; a fourth channel is transparency.
        name: What errors call it.

    Raises:
        InputError: Another shape or type.
    """
    from PIL import Image

    array = np.asarray(array)
    if (
        array.dtype != np.uint8
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)))
        or not array.size
    ):
        raise InputError(
            f"{name} is {array.dtype} {array.shape}",
            hint="an array is uint8, (height, width) or (height, width, 1, 3 or 4)",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return from_image(Image.fromarray(np.ascontiguousarray(array)), name)


def from_image(image: "Image", name: str) -> Picture:
    """The same for a picture that Pillow has opened.

    Raises:
        InputError: It is damaged or exceeds a limit.
    """
    return Picture(_upright_rgb(image, name), frames_note(image))


def _decode(file: Any, name: str) -> Picture:
    return open_image(file, name, lambda image: Picture(_upright_rgb(image, name), frames_note(image)))


def open_image(file: Any, name: str, decode: Callable[["Image"], T]) -> T:
    """What `decode` makes of an open file that Pillow can read.

    Raises:
        InputError: It cannot, or the picture is damaged or too large.
    """
    from PIL import Image, UnidentifiedImageError

    limit = settings.max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        # Pillow warns from half of what it refuses; below our limit there is nothing to warn of
        Image.MAX_IMAGE_PIXELS = limit
    try:
        with Image.open(file) as image:
            return decode(image)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _bomb(name, "more pixels", limit) from None
    except UnidentifiedImageError:
        raise InputError(f"{name} {_what_else(file)}", hint="give a picture, such as a JPEG or a PNG") from None
    except MemoryError:
        raise InputError(f"{name} does not fit into memory", hint="shrink it first") from None
    except Exception as error:  # Pillow's readers raise whatever the bytes make of them
        raise InputError(f"{name} is damaged: {one_line(error)}", hint="fetch or save it again") from error


def _bomb(name: str, pixels: str, limit: int) -> InputError:
    return InputError(
        f"{name} has {pixels} than the limit of {limit}", hint="shrink it, or raise ZOO_MAX_PIXELS if you trust it"
    )


def _what_else(file: Any) -> str:
    """What a file is that is no picture."""
    file.seek(0)
    head = file.read(512)
    if not head:
        return "is empty (0 bytes)"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not a picture: run git lfs pull"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f\x1b" for byte in head):
        return "is text, not a picture"
    if head[4:8] == b"ftyp" and head[8:12] in PHONE:
        return "is HEIC, as some phones write it, which Pillow does not read: save it as JPEG"
    if head[4:8] == b"ftyp" or head[8:12] == b"AVI " or head.startswith(MATROSKA):
        return "is a video; zoo filter, zoo ground and zoo retrieve take videos"
    return "is no picture that Pillow can read"


def frames_note(image: "Image") -> str | None:
    """What is said of a file with several pictures, of which the first one is taken; None of one with one."""
    count = getattr(image, "n_frames", 1)
    return f"first frame of {count}" if count > 1 and image.format != "MPO" else None  # MPO: a photo and its previews


def _upright_rgb(image: "Image", name: str) -> "Image":
    """Check the limits from the header, then decode."""
    width, height = image.size
    check_size(width, height, name)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{name} is {width} x {height} pixels, longer than 1:{MAX_ASPECT}", hint="crop it first")
    image.load()
    return _upright(_rgb(image), image)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture before it is decoded.

    Raises:
        InputError: It has no pixel, or more than the limit.
    """
    limit = settings.max_pixels()
    if width * height > limit:
        raise _bomb(name, f"{width} x {height} pixels, more", limit)
    if not width or not height:
        raise InputError(f"{name} is {width} x {height} pixels", hint="give a picture with content")


def _rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        white.alpha_composite(rgba)
        return white.convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: Any) -> Any:
    """Grey values of more than eight bits, scaled: 16-bit from their full range, others from [0, 1] or their own."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("pixel values that are not finite")
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return ((values.astype(np.float64) - low) / max(high - low, 1e-12) * 255 + 0.5).astype(np.uint8)


def _upright(rgb: "Image", image: "Image") -> "Image":
    """The picture turned and mirrored as its EXIF orientation says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def orientation(image: "Image") -> int:
    """The EXIF orientation, 1 where there is none."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels, which are whole
        return 1


def _nearest(path: str) -> str:
    import difflib

    folder = Path(path).parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    try:
        near = difflib.get_close_matches(Path(path).name, [entry.name for entry in folder.iterdir()], 1)
    except PermissionError:
        near = []  # a folder that may be entered and not listed
    return f"did you mean {folder / near[0]}?" if near else "check the path"
