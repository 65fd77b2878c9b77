"""Pictures at their own depth: eight or sixteen bits or float, transparency and colour profile apart from the colours.

For a filter, whose output is a picture again. A network that classifies takes `zoo.data.images`.
"""

import io
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.images import SUFFIXES, Source, check_size, frames_note, open_image, open_source, orientation
from zoo.data.radiance import read_radiance, write_radiance
from zoo.errors import InputError, one_line
from zoo.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RASTER_SUFFIXES", "Raster", "from_image", "read_raster", "suffix_for", "write_raster"]

RASTER_SUFFIXES = SUFFIXES | {".exr", ".hdr"}
RADIANCE, EXR = b"#?", b"\x76\x2f\x31\x01"  # first bytes
OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}  # on a little-endian machine
OTHER_BYTE |= {key.replace("RGB", "RGBA"): value.replace("RGB", "RGBA") for key, value in OTHER_BYTE.items()}

Kind = Literal["picture", "hdr", "exr"]


@dataclass(frozen=True)
class Raster:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 1 or 3), upright; uint8, uint16 or float32. Gamma-encoded, unless `kind` is "hdr" or "exr".
        alpha: (H, W) of the same type, untouched.
        profile: ICC profile.
        kind: "hdr" or "exr" for linear light of any range.
        note: What was done beyond plain decoding.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    profile: bytes | None = None
    kind: Kind = "picture"
    note: str | None = None

    @property
    def is_linear(self) -> bool:
        """Whether values are proportional to light."""
        return self.kind != "picture"


def read_raster(source: Source | bytes, *, name: str | None = None) -> Raster:
    """Decode one picture at its own depth.

    Palettes become RGB or grey, CMYK and other colour spaces RGB, the EXIF orientation is applied, animations give
    their first frame.

    Args:
        source: A path, an http(s) address, or the bytes of a file.
        name: What errors call it; by default the path or the address.

    Raises:
        InputError: It cannot be had, is no picture, is damaged, or exceeds a limit; one line says which.
    """
    return open_source(source, name, _decode)


def _decode(file: IO[bytes], name: str) -> Raster:
    head = file.read(4)
    file.seek(0)
    if head.startswith(RADIANCE):
        return Raster(read_radiance(file, name), kind="hdr")  # type: ignore[arg-type]  # BinaryIO is IO[bytes]
    if head == EXR:
        return _read_exr(file.read(), name)
    deep = open_image(file, name, lambda image: _low_bytes(image, name))
    file.seek(0)
    return open_image(file, name, lambda image: _raster(image, name, deep))


def from_image(image: "Image", name: str) -> Raster:
    """The same for a picture that Pillow has opened, at the depth that Pillow knows.

    Raises:
        InputError: It exceeds a limit or holds integers of 32 bits.
    """
    return _raster(image, name, None)


def _low_bytes(image: "Image", name: str) -> NDArray[Any] | None:
    """The bytes that Pillow drops of 16-bit colours, or None where it drops none.

    It has no mode for them and keeps the high byte of each value; asked for the other byte order, it keeps the low one.
    """
    check_size(*image.size, name)
    tiles = getattr(image, "tile", [])
    args = [tile.args for tile in tiles]
    modes = {arg[0] if isinstance(arg, tuple) else arg for arg in args}
    if len(modes) != 1 or image.mode not in ("RGB", "RGBA"):
        return None
    (mode,) = modes
    if mode == "LA;16B":  # four bytes a pixel, of which Pillow keeps the first and third
        image.tile = [tile._replace(args="RGBA") for tile in tiles]  # type: ignore[attr-defined]  # ImageFile's own
    elif mode in OTHER_BYTE:
        other = OTHER_BYTE[mode]
        image.tile = [  # type: ignore[attr-defined]  # ImageFile's own
            tile._replace(args=(other, *arg[1:]) if isinstance(arg, tuple) else other)
            for tile, arg in zip(tiles, args, strict=True)
        ]
    else:
        return None
    values = np.asarray(image)
    return values[..., [1, 1, 1, 3]] if mode == "LA;16B" else values


def _raster(image: "Image", name: str, low: NDArray[Any] | None) -> Raster:
    check_size(*image.size, name)
    note = frames_note(image)
    profile = image.info.get("icc_profile")
    is_grey = any(tile.args == "LA;16B" for tile in getattr(image, "tile", []))  # known until the pixels are read
    turn = orientation(image)
    if low is not None:
        values = np.asarray(image).astype(np.uint16) << 8 | low
    elif image.mode.startswith("I") or image.mode == "F":
        values = _deep_grey(np.asarray(image), name)
    else:
        colours, profile = _eight_bit(image, profile)
        values = np.asarray(colours)
    if values.ndim == 2:
        values = values[:, :, None]
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    pixels = values[..., : 1 if is_grey else values.shape[2] - (alpha is not None)]
    return Raster(
        np.ascontiguousarray(_turned(pixels, turn)),
        None if alpha is None else np.ascontiguousarray(_turned(alpha, turn)),
        profile,
        note=note,
    )


def _eight_bit(image: "Image", profile: bytes | None) -> "tuple[Image, bytes | None]":
    """The picture as L, LA, RGB or RGBA, and its profile if that still fits."""
    if image.mode == "CMYK":
        return _from_cmyk(image, profile), None
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return image.convert("L"), profile
    if image.mode in ("LA", "La", "L", "1"):
        return image.convert("LA"), profile
    if image.has_transparency_data:
        return image.convert("RGBA"), profile
    return image.convert("RGB"), profile if image.mode in ("RGB", "RGBX", "P") else None


def _from_cmyk(image: "Image", profile: bytes | None) -> "Image":
    """RGB: through the picture's own profile into sRGB where it has one that works."""
    from PIL import ImageCms

    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _deep_grey(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(f"{name} holds 32-bit integers", hint="save it with 8 or 16 bits, or as float")
    return values.astype(np.uint16)


def _turned(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """Rows and columns as EXIF orientation `turn` says."""
    if turn in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _read_exr(data: bytes, name: str) -> Raster:
    OpenEXR = _openexr()
    path = None
    try:
        with tempfile.NamedTemporaryFile(suffix=".exr", delete=False) as file:  # the library reads from paths only
            path = file.name
            file.write(data)
        with OpenEXR.File(path, separate_channels=True) as opened:
            channels = {key: np.asarray(channel.pixels) for key, channel in opened.channels().items()}
    except Exception as error:  # the library raises RuntimeError, ValueError, OSError as it comes
        raise InputError(f"{name} is damaged: {one_line(error)}", hint="save it again") from error
    finally:
        if path:
            os.unlink(path)  # noqa: PTH108 - a name, not a Path
    names = ("R", "G", "B") if "R" in channels else ("Y",)
    if any(key not in channels or channels[key].dtype.kind != "f" for key in names):
        raise InputError(f"{name} has the channels {', '.join(channels)}", hint="save R, G, B or Y as float")
    pixels = np.stack([channels[key].astype(np.float32) for key in names], 2)
    check_size(pixels.shape[1], pixels.shape[0], name)
    alpha = channels.get("A")
    return Raster(pixels, None if alpha is None else alpha.astype(np.float32), kind="exr")


def _openexr() -> Any:
    need("hdr", "reading and writing .exr", InputError)
    import OpenEXR

    return OpenEXR


def suffix_for(raster: Raster, like: str) -> str:
    """The file type that keeps a picture: JPEG, linear light and float grey stay, the rest becomes PNG."""
    if raster.is_linear:
        return f".{raster.kind}"
    if raster.pixels.dtype == np.float32:
        return ".tif"
    if like.lower() in (".jpg", ".jpeg", ".jpe", ".jfif") and raster.alpha is None and raster.pixels.dtype == np.uint8:
        return like
    return ".png"


def write_raster(path: Path, raster: Raster) -> None:
    """Write a picture as its suffix says: .png (8 or 16 bits), .jpg, .tif (float grey), .hdr, .exr.

    The file appears whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            _encode(file, raster, path.suffix.lower())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(file: IO[bytes], raster: Raster, suffix: str) -> None:
    if suffix == ".hdr":
        write_radiance(file, np.broadcast_to(raster.pixels, (*raster.pixels.shape[:2], 3)))  # type: ignore[arg-type]
    elif suffix == ".exr":
        file.write(_exr(raster))
    elif raster.pixels.dtype == np.uint16:
        file.write(_png16(raster))
    else:
        image = _image(raster)
        options: dict[str, Any] = {"icc_profile": raster.profile} if raster.profile else {}
        if suffix == ".png":
            image.save(file, "PNG", compress_level=3, **options)
        elif suffix == ".tif":
            image.save(file, "TIFF", **options)
        else:
            image.save(file, "JPEG", quality=95, subsampling=0, **options)


def _image(raster: Raster) -> "Image":
    from PIL import Image

    values = _joined(raster)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _joined(raster: Raster) -> NDArray[Any]:
    """(H, W, 1 to 4): the colours and what transparency there is."""
    parts = [raster.pixels] if raster.alpha is None else [raster.pixels, raster.alpha[..., None]]
    return np.concatenate(parts, 2)


def _exr(raster: Raster) -> bytes:
    OpenEXR = _openexr()
    names = ("R", "G", "B") if raster.pixels.shape[2] == 3 else ("Y",)
    channels = {key: np.ascontiguousarray(raster.pixels[..., i]) for i, key in enumerate(names)}
    if raster.alpha is not None:
        channels["A"] = raster.alpha
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.exr"
        with OpenEXR.File(header, channels) as made:
            made.write(str(path))
        return path.read_bytes()


def _png16(raster: Raster) -> bytes:
    """PNG of sixteen bits a channel, which Pillow writes for grey only."""
    values = _joined(raster).astype(">u2")
    height, width, channels = values.shape
    rows = values.reshape(height, -1).view(np.uint8)
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # "up": the difference to the row above
    filtered[:, 1:] = rows - above
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if raster.profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(raster.profile)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
