"""safetensors files from the outside: what is in them, and writing them whole.

Layout: 8 bytes little-endian length, that many bytes of JSON, then the tensors back to back. The JSON's `__metadata__`
is a flat map of strings; ours is JSON again, under the key `zoo`: `architecture`, `builder_args`, `format` and what
made the file.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import InputError, IntegrityError, WeightsUnavailable, one_line
from zoo.registry.card import Card
from zoo.registry.labels import label_names

__all__ = ["Contents", "class_names", "facts_for", "read_contents", "write_whole"]

LONGEST_HEADER = 1_000_000  # bytes, or an eighth of the file: decoded JSON takes up to 25 times its length
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
FOREIGN = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch pickle", "zoo convert ARCH FILE --out OUT.safetensors"),
    *((bytes((0x80, protocol)), "a pickle", "zoo convert ARCH FILE --out OUT.safetensors") for protocol in range(2, 6)),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"<", "text, perhaps an error page", "download it again"),
)


@dataclass(frozen=True)
class Contents:
    """What a safetensors file says about itself.

    Attributes:
        shapes: Shape of each tensor.
        dtypes: Type of each tensor, in safetensors' names: "F32", "BF16", "I64".
        metadata: The flat map of strings.
        facts: Our part of it, decoded; empty in files that are not ours.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    facts: dict[str, Any]


def read_contents(path: Path) -> Contents:
    """The header of a safetensors file, checked against the file's length; no tensor is read.

    Raises:
        WeightsUnavailable: There is no such file.
        InputError: It cannot be opened.
        IntegrityError: It is no safetensors file, it is cut, or its header contradicts itself.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            size = int.from_bytes(start[:8], "little")
            _refuse_foreign(path, start, length, size)
            file.seek(8)
            header = file.read(size)
    except FileNotFoundError:
        raise WeightsUnavailable(f"there is no file {path}", hint="check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    try:
        table = json.loads(header)
        metadata = table.pop("__metadata__", {})
        facts = json.loads(metadata.get("zoo", "{}"))
        if not isinstance(facts, dict):
            raise TypeError("the metadata key zoo is no table")
        end = _check_tensors(table)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} has a broken header: {one_line(error)}", hint="fetch or convert the file again"
        ) from None
    if length != 8 + size + end:
        raise IntegrityError(
            f"{path} has {length} bytes and its header promises {8 + size + end}",
            hint="it was cut or added to; get it again",
        )
    return Contents(
        shapes={name: tuple(entry["shape"]) for name, entry in table.items()},
        dtypes={name: entry["dtype"] for name, entry in table.items()},
        metadata=metadata,
        facts=facts,
    )


def class_names(card: Card, checkpoint_path: str | Path | None = None) -> tuple[str, ...]:
    """Names of a classifier's outputs: as the file's own training knew them, else the card's; none if nobody says.

    Args:
        card: The checkpoint's card.
        checkpoint_path: The file that is used in place of the card's.
    """
    own = read_contents(Path(checkpoint_path)).facts.get("labels") if checkpoint_path else None
    if isinstance(own, list) and own:
        return tuple(map(str, own))
    return label_names(card.labels) if card.labels else ()


def facts_for(
    architecture: str, builder_args: Mapping[str, Any], layout: str = "float", **made_by: Any
) -> dict[str, str]:
    """Metadata for a file of ours.

    Args:
        architecture: Name of the builder.
        builder_args: What `zoo.create_model` has to call it with; plain JSON types.
        layout: "float", or the name of a packed layout.
        made_by: Further facts: source, recipe, seed.
    """
    facts = {"architecture": architecture, "builder_args": dict(builder_args), "format": layout, **made_by}
    return {"zoo": json.dumps(facts, sort_keys=True)}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it, or a power cut, meets the old one or the new one.

    Raises:
        InputError: It cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}", hint="make room, or choose another place"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # where there is no such folder there is nothing to remove, by many names
            part.unlink()


def _refuse_foreign(path: Path, start: bytes, length: int, size: int) -> None:
    if not length:
        raise IntegrityError(f"{path} is empty", hint="get the file again")
    if start[8:9] != b"{" and length > 8:  # a length of 640 is spelled like a pickle's first bytes, so this comes first
        kind, hint = next(
            (rest for magic, *rest in FOREIGN if start.startswith(magic)),
            ("of another kind", "zoo loads only those; zoo convert makes one of an author's file"),
        )
        raise IntegrityError(f"{path} is no safetensors file: it is {kind}", hint=hint)
    if size > min(length - 8, max(LONGEST_HEADER, length // 8)):
        raise IntegrityError(
            f"{path} is cut, or no safetensors file: {length} bytes, a header of {size}", hint="get the file again"
        )


def _check_tensors(table: dict[str, Any]) -> int:
    """Bytes of all tensors, which must lie back to back.

    Raises:
        ValueError: A type that does not exist, or a tensor whose place does not fit its shape.
    """
    end = 0
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in BITS:
            raise ValueError(f"{name} has the unknown type {dtype}")
        if any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"{name} has the shape {shape}")
        if begin != end or stop - begin != math.prod(shape) * BITS[dtype] // 8:
            raise ValueError(f"{name} {dtype} {shape} lies at {begin} to {stop}, behind {end}")
        end = stop
    return end
