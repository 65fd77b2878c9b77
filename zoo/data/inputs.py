"""What long lists of inputs stand for: rows of Parquet lists, members of tar shards, addresses that are read ahead."""

import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import PurePath
from typing import TextIO

from zoo.data.images import SUFFIXES, Encoded, Item, Source, expand
from zoo.data.stores import is_store, join, open_file, read_bytes
from zoo.data.urls import MAX_BYTES, fetch, is_url
from zoo.errors import InputError, one_line
from zoo.extras import need

__all__ = ["addresses", "is_shard", "opened"]

LIST, SHARD = ".parquet", ".tar"
COLUMNS = ("path", "url")
FETCHERS = 16  # threads that wait for stores and servers
AHEAD = 32  # addresses under way; each may be as long as the limit


def addresses(inputs: Iterable[Source], stdin: TextIO | None = None) -> Iterator[str | InputError]:
    """As `expand`, with the rows of Parquet lists in their place, and shards among the files of a folder.

    A list has a column `path` (relative to the list) or `url`.

    Args:
        inputs: Files, folders, globs, addresses, lists, shards, or "-".
        stdin: What "-" reads.

    Yields:
        A picture's or a shard's path or address; or an InputError in the place of what stands for none.

    Raises:
        UsageError: A list and no pyarrow, or a store and no client for it.
    """
    for item in expand(inputs, stdin, SUFFIXES | {SHARD}):
        if isinstance(item, str) and _suffix(item) == LIST and not is_url(item):
            yield from _listed(item)
        else:
            yield item


def is_shard(item: object) -> bool:
    """Whether an address is a shard's: a tar file that holds pictures, as webdataset has them."""
    return isinstance(item, str) and _suffix(item) == SHARD and not is_url(item)


def opened(items: Iterable[Item]) -> Iterator[Item]:
    """The same with shards replaced by their pictures, and files of stores and servers read by threads, ahead.

    Args:
        items: From `addresses`.

    Yields:
        What a pipeline takes. A shard that is cut gives the pictures before the cut, and an InputError.
    """
    for shards, group in groupby(items, is_shard):
        if shards:
            for address in group:
                yield from _members(address)
        else:
            yield from _read_ahead(group)


def _listed(address: str) -> Iterator[str | InputError]:
    need("index", address)
    import pyarrow
    import pyarrow.parquet

    folder = address.rpartition("/")[0]
    try:
        with open_file(address) as file:
            table = pyarrow.parquet.ParquetFile(file)
            column = next((name for name in COLUMNS if name in table.schema_arrow.names), None)
            if column is None:
                raise InputError(
                    f"{address} has the columns {', '.join(table.schema_arrow.names)}", hint="one called path, or url"
                )
            for batch in table.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _row(value, folder, address)
    except InputError as error:
        error.source = address
        yield error
    except (OSError, pyarrow.ArrowException) as error:
        yield InputError(f"{address} cannot be read: {one_line(error)}", hint="check the list", source=address)


def _row(value: object, folder: str, address: str) -> str | InputError:
    if not isinstance(value, str) or not value:
        return InputError(f"{address}: a row holds {value!r} for a path", hint="a text a row", source=address)
    return value if is_url(value) or is_store(value) or not folder else join(folder, value)


class _Strict(tarfile.TarInfo):
    """Headers of a tar file that has to end as tar files do: the standard library takes any damage for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Strict":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the one good end; typeshed leaves it out
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error) or "damaged") from None


def _members(address: str) -> Iterator[Encoded | InputError]:
    """Pictures of a shard, front to back: nothing but the shard itself is ever needed, so a store streams it."""
    found = False
    try:
        with open_file(address) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Strict) as tar:
            for member in tar:
                if not member.isfile() or _suffix(member.name) not in SUFFIXES:
                    continue
                found, name = True, f"{address}/{member.name}"
                content = tar.extractfile(member) if member.size <= MAX_BYTES else None
                if content is None:
                    yield InputError(f"{name}: more than {MAX_BYTES // 2**20} MiB", hint="make it smaller", source=name)
                else:
                    yield Encoded(name, content.read())
        if not found:
            hint = "an uncompressed tar in webdataset's form"
            yield InputError(f"{address}: no picture in this shard", hint=hint, source=address)
    except (OSError, EOFError, tarfile.TarError) as error:
        yield InputError(f"{address}: the shard is damaged: {one_line(error)}", hint="get it again", source=address)
    except InputError as error:
        error.source = address
        yield error


def _read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    waiting: deque[Item | Future[Item]] = deque()
    with ThreadPoolExecutor(FETCHERS) as pool:  # a thread starts when there is something for it
        try:
            for item in items:
                remote = isinstance(item, str) and (is_url(item) or is_store(item))
                if not remote and not waiting:
                    yield item
                    continue
                waiting.append(pool.submit(_read, item) if remote else item)
                if len(waiting) > AHEAD:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for left in waiting:
                if isinstance(left, Future):
                    left.cancel()


def _read(address: str) -> Item:
    try:
        return Encoded(address, fetch(address) if is_url(address) else read_bytes(address))
    except InputError as error:
        error.source = address
        return error


def _result(item: Item) -> Item:
    return item.result() if isinstance(item, Future) else item


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()
