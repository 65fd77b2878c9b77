"""Small text files, whole: text, lines, tables, JSON; what cannot be read is said in one line."""

import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from zoo.errors import InputError, ZooError, one_line

__all__ = ["ARRAY_FAULTS", "check_name", "read_json", "read_lines", "read_table", "read_text"]

# what numpy raises when it reads an empty, cut or altered .npz, or one without the arrays that are asked for
ARRAY_FAULTS = (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error)


def check_name(path: str) -> None:
    """Refuse a file's name that a gallery, whose items are JSON, cannot hold.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not UTF-8", hint="rename it", source=path) from None


def read_text(path: Path, hint: str = "check the path", error: type[ZooError] = InputError) -> str:
    """A file in UTF-8.

    Args:
        path: The file.
        hint: What it should be, or where it comes from.
        error: `UsageError` where an option names it.

    Raises:
        ZooError: Of that kind: it is not there, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # the mark that spreadsheets and Windows put first is no text
    except FileNotFoundError:
        raise error(f"{path}: no such file", hint=hint) from None
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or one_line(fault)
        raise error(f"{path} cannot be read: {reason}", hint=hint) from None


def read_lines(path: Path, hint: str = "check the path", error: type[ZooError] = InputError) -> list[str]:
    """The lines of a file that say something, without the space around them; arguments and errors of `read_text`."""
    return [line.strip() for line in read_text(path, hint, error).split("\n") if line.strip()]


def read_table(path: Path, hint: str, delimiter: str = ",") -> list[dict[str, Any]]:
    """The rows of a CSV file by the names in its first line.

    Raises:
        InputError: It cannot be read, or is no table.
    """
    try:
        return list(csv.DictReader(io.StringIO(read_text(path, hint)), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from None


def read_json(path: Path, hint: str = "check the file") -> Any:
    """A JSON document.

    Raises:
        InputError: It cannot be read, or is none.
    """
    try:
        return json.loads(read_text(path, hint))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {one_line(error)}", hint=hint) from None
