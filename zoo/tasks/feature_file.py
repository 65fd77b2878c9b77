"""Features on disk: Parquet, CSV, JSON lines or NumPy, written as they come and named when whole."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoo.errors import UsageError
from zoo.extras import need
from zoo.results.classification import Embedding

__all__ = ["as_text", "feature_file"]

ROWS = 1024  # of a Parquet row group

Write = Callable[[Embedding], None]


class _Writer(Protocol):
    def write(self, row: Embedding) -> None: ...

    def close(self) -> None: ...


@contextmanager
def feature_file(path: Path) -> Iterator[Write]:
    """A file that takes embeddings, one at a time and all of one length.

    It appears under its name when the block ends well and something was written; otherwise what was there before stays.

    Args:
        path: `.parquet` (columns source, vector), `.csv` (source, f0, f1, ...), `.jsonl`, or `.npy` ((N, D) float32,
            with the sources in a text file beside it, `<name>.sources.txt`).

    Raises:
        UsageError: Another suffix, a folder that is not there or may not be written to, or Parquet without pyarrow.
    """
    make = _WRITERS.get(path.suffix)
    if make is None:
        raise UsageError(f"{path}: no format {path.suffix or 'without a suffix'}", hint=f"one of {', '.join(_WRITERS)}")
    if path.suffix == ".parquet":
        need("index", "Parquet")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="check the folder of --out") from None
    extra = part.with_suffix(".sources")
    writer: _Writer | None = None

    def write(row: Embedding) -> None:
        nonlocal writer
        writer = writer or make(part, len(row), extra)
        writer.write(row)

    try:
        try:
            yield write
        finally:
            if writer:
                writer.close()
        if writer:
            if extra.exists():
                extra.replace(path.with_suffix(".sources.txt"))
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
        extra.unlink(missing_ok=True)


def as_text(source: str) -> str:
    """A path as text, bytes that are no UTF-8 spelled out."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


class _Parquet:
    def __init__(self, part: Path, width: int, extra: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.pyarrow = pyarrow
        self.width = width
        vector = pyarrow.list_(pyarrow.float32(), width)
        self.schema = pyarrow.schema([("source", pyarrow.string()), ("vector", vector)])
        self.file = pyarrow.parquet.ParquetWriter(part, self.schema)
        self.rows: list[Embedding] = []

    def write(self, row: Embedding) -> None:
        self.rows.append(row)
        if len(self.rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        flat = self.pyarrow.array(np.concatenate([row.vector for row in self.rows]))
        vectors = self.pyarrow.FixedSizeListArray.from_arrays(flat, self.width)
        names = self.pyarrow.array([as_text(row.source) for row in self.rows], self.pyarrow.string())
        self.file.write_table(self.pyarrow.Table.from_arrays([names, vectors], schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.rows:
            self._flush()
        self.file.close()


class _Csv:
    def __init__(self, part: Path, width: int, extra: Path) -> None:
        self.file = part.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(["source", *(f"f{i}" for i in range(width))])

    def write(self, row: Embedding) -> None:
        self.rows.writerow([row.source, *map(str, row.vector)])  # str of a float32 reads back as the same float32

    def close(self) -> None:
        self.file.close()


class _Jsonl:
    def __init__(self, part: Path, width: int, extra: Path) -> None:
        self.file = part.open("w", encoding="utf-8", errors="surrogateescape")

    def write(self, row: Embedding) -> None:
        self.file.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()


class _Npy:
    def __init__(self, part: Path, width: int, extra: Path) -> None:
        self.file = part.open("w+b")
        self.names = extra.open("w", encoding="utf-8", errors="surrogateescape")
        self.count, self.width = 0, width
        self._head()

    def _head(self) -> None:
        head: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self.width)}
        np.lib.format.write_array_header_1_0(self.file, head)  # leaves room for a longer count

    def write(self, row: Embedding) -> None:
        self.file.write(row.vector.astype("<f4").tobytes())
        self.names.write(row.source.replace("\n", "\\n") + "\n")
        self.count += 1

    def close(self) -> None:
        self.file.seek(0)
        self._head()
        self.file.close()
        self.names.close()


_WRITERS: dict[str, Callable[[Path, int, Path], _Writer]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _Jsonl,
    ".npy": _Npy,
}
