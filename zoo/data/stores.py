"""Files by address: paths, and whatever fsspec has a client for (s3://, gs://, az://, memory://, file://, ...).

http and https are not among them: `zoo.data.urls` fetches those, with limits of its own.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.data.urls import MAX_BYTES, is_url
from zoo.errors import InputError, UsageError, one_line
from zoo.hub.checkpoint import write_whole

__all__ = ["is_folder", "is_store", "join", "list_files", "names_in", "open_file", "read_bytes", "write_bytes"]

OBJECT_STORES = frozenset(["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"])


def is_store(text: str) -> bool:
    """Whether a source is an address of a store: `protocol://...`, http and https apart."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]*(::[A-Za-z0-9+.\-]+)*://", text) is not None and not is_url(text)


def is_folder(out: str) -> bool:
    """Whether results go into a folder rather than a file: a store, a folder that is there, or a slash at the end."""
    return is_store(out) or out.endswith(("/", os.sep)) or Path(out).is_dir()


def join(folder: str, name: str) -> str:
    """The address of a file in a folder."""
    return posixpath.join(folder, name) if is_store(folder) else os.path.join(folder, name)  # noqa: PTH118


def read_bytes(address: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """A whole file of a store, in one request.

    Raises:
        InputError: It cannot be had, or it is longer than the limit.
        UsageError: There is no client for such addresses.
    """
    with _faults(address):
        system, path = _system(address)
        data: bytes = system.cat_file(path, start=0, end=max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(
            f"{address}: more than {max_bytes // 2**20} MiB", hint="fetch the file first and give its path"
        )
    return data


@contextmanager
def open_file(address: str) -> Iterator[Any]:
    """A file to read from, of a store or of this machine.

    Raises:
        InputError: It cannot be opened.
        UsageError: There is no client for such addresses.
    """
    with _faults(address):
        system, path = _system(address)
        file = system.open(path, "rb")
    with file:
        yield file


def write_bytes(address: str, data: bytes) -> None:
    """Write a file whole: whoever reads meets the old one or the new one, and folders are made as needed.

    An object store shows an object once it is complete; elsewhere the file is written beside its place and renamed.

    Raises:
        InputError: It cannot be written.
        UsageError: There is no client for such addresses.
    """
    with _faults(address):
        system, path = _system(address)
        if _protocols(system) & OBJECT_STORES:
            system.pipe_file(path, data)
            return
        system.makedirs(posixpath.dirname(path), exist_ok=True)
        if "file" in _protocols(system):
            write_whole(Path(path), data)
            return
        part = f"{path}.{os.getpid()}.part"
        system.pipe_file(part, data)
        system.mv(part, path)


def names_in(folder: str) -> set[str]:
    """Names of the files in a folder; none where there is no folder.

    Raises:
        InputError: It cannot be listed.
        UsageError: There is no client for such addresses.
    """
    with _faults(folder):
        system, path = _system(folder)
        system.invalidate_cache()
        try:
            return {posixpath.basename(entry["name"]) for entry in system.ls(path, detail=True)}
        except FileNotFoundError:
            return set()


def list_files(address: str, suffixes: Set[str]) -> Iterator[str]:
    """Addresses that an address of a store stands for, by name: itself, the files of a folder, what matches a pattern.

    Args:
        address: Of a file, a folder or a pattern.
        suffixes: Of the files that are looked for in a folder.

    Raises:
        InputError: It cannot be listed, or nothing is there.
        UsageError: There is no client for such addresses.
    """
    with _faults(address):
        system, path = _system(address)
        if "*" in path:
            found = sorted(name for name in system.glob(path) if posixpath.splitext(name)[1].lower() in suffixes)
        elif posixpath.splitext(path)[1].lower() in suffixes:
            found = [path]  # a list of a million addresses is no reason to ask for each
        elif system.isfile(path):
            found = [path]
        else:
            found = sorted(name for name in system.find(path) if posixpath.splitext(name)[1].lower() in suffixes)
    if not found:
        raise InputError(f"{address}: no picture there", hint=f"looked for {', '.join(sorted(suffixes))}")
    for name in found:
        yield system.unstrip_protocol(name)


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    return system, path


def _protocols(system: Any) -> set[str]:
    return {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)


@contextmanager
def _faults(address: str) -> Iterator[None]:
    """What clients raise, in one line; each has kinds of its own."""
    try:
        yield
    except (InputError, UsageError):
        raise
    except ImportError as error:
        raise UsageError(f"{address}: {one_line(error)}", hint="pip install 's3fs', 'gcsfs', 'adlfs', ...") from None
    except FileNotFoundError:
        raise InputError(f"{address}: no such file", hint="check the address") from None
    except PermissionError:
        raise InputError(f"{address} is forbidden", hint="check the credentials of the store's client") from None
    except Exception as error:
        raise InputError(f"{address}: {one_line(error)}", hint="check the address and the store's client") from None
