"""A network over more inputs than one run may live for: partitioned Parquet, by one process or many, resumable.

The list of inputs is written down first, one row group a part. Part i of the list becomes `part-i.parquet`, written
whole: the file is there or it is not, and there is no other record of what is done. So whoever dies costs at most the
parts in hand, no row is lost, and none is there twice.

    OUT/part-000000.parquet   a row an input: source, what the task answers, error (null where there is none)
    OUT/_zoo/job.json         what is computed; a job that differs is refused
    OUT/_zoo/inputs.parquet   the list; readers of data sets skip folders that begin with an underscore

Under torchrun the processes of all machines count through the parts together: the store that torchrun keeps for them
hands out the numbers, so a slow machine takes fewer.
"""

import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoo import __version__
from zoo.data.images import Item
from zoo.data.inputs import addresses, is_shard, opened
from zoo.data.stores import join, names_in, open_file, write_bytes
from zoo.errors import InputError, UsageError, ZooError
from zoo.extras import need
from zoo.hub.fetch import sha256_of
from zoo.results.classification import Classification, Embedding
from zoo.tasks.feature_file import as_text
from zoo.tasks.pipeline import Pipeline

__all__ = ["Alone", "Group", "Job", "describe", "open_job", "run"]

JOB, INPUTS = "_zoo/job.json", "_zoo/inputs.parquet"
LONGEST_WAIT = 24 * 3600.0  # seconds that the others wait for the first process's list


class Workers(Protocol):
    """Who shares the work."""

    def first(self, prepare: Callable[[], None]) -> None:
        """Have one of all do something while the others wait."""
        ...

    def numbers(self, count: int) -> Iterator[int]:
        """Part numbers for this process, each of which no other gets."""
        ...


class Alone:
    """One process."""

    def first(self, prepare: Callable[[], None]) -> None:
        prepare()

    def numbers(self, count: int) -> Iterator[int]:
        return iter(range(count))


class Group:
    """The processes that torchrun started, here and on other machines."""

    def __init__(self) -> None:
        from torch.distributed.rendezvous import rendezvous

        self.store, self.rank, self.size = next(rendezvous("env://"))

    @staticmethod
    def is_here() -> bool:
        """Whether torchrun started this process."""
        from torch.distributed import is_torchelastic_launched

        return is_torchelastic_launched()

    def first(self, prepare: Callable[[], None]) -> None:
        from datetime import timedelta

        if self.rank == 0:
            prepare()
            self.store.set("zoo/prepared", "1")
        self.store.wait(["zoo/prepared"], timedelta(seconds=LONGEST_WAIT))

    def numbers(self, count: int) -> Iterator[int]:
        while (number := self.store.add("zoo/part", 1) - 1) < count:
            yield number


@dataclass(frozen=True)
class Job:
    """A job in its folder.

    Attributes:
        folder: Path or address.
        parts: How many there are.
    """

    folder: str
    parts: int

    def part(self, number: int) -> str:
        """Address of a part."""
        return join(self.folder, _name(number))

    def inputs(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[str]]]:
        """The inputs of parts."""
        import pyarrow.parquet

        with open_file(join(self.folder, INPUTS)) as file:
            table = pyarrow.parquet.ParquetFile(file)
            for number in numbers:
                yield number, [os.fsdecode(row) for row in table.read_row_group(number).column(0).to_pylist()]


def describe(pipe: Pipeline[Any], checkpoint: Path | None, inputs: Sequence[str], part_size: int) -> dict[str, Any]:
    """What makes one job the same as another: whatever changes an answer, or where it lands.

    Args:
        pipe: What answers.
        checkpoint: Where its weights came from, if not from the card.
        inputs: As they were given.
        part_size: Rows of a part.
    """
    return {
        "model": pipe.card.name,
        "weights": sha256_of(checkpoint) if checkpoint else pipe.card.weights.sha256,
        "task": type(pipe.task).__name__.lower(),
        "topk": getattr(pipe.task, "topk", None),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "inputs": list(inputs),
        "part_size": part_size,
    }


def open_job(folder: str, what: Mapping[str, Any], workers: Workers) -> Job:
    """The job in a folder, begun if there is none.

    Args:
        folder: Path or address.
        what: From `describe`.
        workers: Who does it.

    Raises:
        UsageError: The folder holds another job, or other files; or pyarrow is missing.
        InputError: It cannot be written to, or an input stands for nothing.
    """
    need("index", "a folder of parts")
    workers.first(lambda: _begin(folder, what))
    with open_file(join(folder, JOB)) as file:
        found = json.load(file)
    strange = [key for key, value in what.items() if found.get(key) != value]
    if strange:
        raise UsageError(
            f"{folder} holds a job with another {strange[0]}: {found.get(strange[0])!r}, here {what[strange[0]]!r}",
            hint="give the same arguments to go on with it, or another --out",
        )
    return Job(folder, found["parts"])


def run(job: Job, pipe: Pipeline[Any], workers: Workers, step: Callable[[Any], None]) -> tuple[int, int]:
    """Answer the inputs of all parts that are not there yet; returns parts written and parts found.

    Args:
        job: Which.
        pipe: What answers.
        workers: Who shares the work.
        step: Called with each result.

    Raises:
        InputError: A part cannot be written.
    """
    there = names_in(job.folder)
    found = written = 0

    def missing() -> Iterator[int]:
        nonlocal found
        for number in workers.numbers(job.parts):
            if _name(number) in there:
                found += 1
            else:
                yield number

    ends: deque[tuple[int, int]] = deque()  # of parts whose inputs have all gone in: number, rows
    rows: list[Any] = []
    table = _table_of(pipe)
    for result in chain(pipe(_stream(job.inputs(missing()), ends)), (None,)):
        if result is not None:
            step(result)
            rows.append(result)
        while ends and ends[0][1] <= len(rows):
            number, count = ends.popleft()
            write_bytes(job.part(number), table(rows[:count]))
            del rows[:count]
            written += 1
    return written, found


def _stream(parts: Iterable[tuple[int, list[str]]], ends: deque[tuple[int, int]]) -> Iterator[Item]:
    """Inputs of many parts as one stream, so that decoding goes on across their borders."""
    for number, inputs in parts:
        count = 0
        for item in opened(inputs):
            count += 1
            yield item
        ends.append((number, count))


def _begin(folder: str, what: Mapping[str, Any]) -> None:
    """Write the list and then the job, unless there is one."""
    if "job.json" in names_in(join(folder, "_zoo")):
        return
    if others := names_in(folder) - {"_zoo"}:
        raise UsageError(f"{folder} holds other files: {min(others)}", hint="give --out a folder of its own")
    parts = 0

    def count(groups: Iterable[list[str]]) -> Iterator[list[str]]:
        nonlocal parts
        for group in groups:
            parts += 1
            yield group

    data = _list(count(_groups(addresses(what["inputs"]), what["part_size"])))
    if not parts:
        raise InputError("no input", hint="files, folders, lists in Parquet, shards, or - for a list")
    write_bytes(join(folder, INPUTS), data)
    job = {**what, "parts": parts, "made_by": f"zoo {__version__}"}
    write_bytes(join(folder, JOB), json.dumps(job, indent=2).encode())


def _groups(items: Iterable[str | InputError], size: int) -> Iterator[list[str]]:
    """Addresses in parts; a shard is one by itself.

    Raises:
        InputError: What stands for no picture.
    """
    group: list[str] = []
    for item in items:
        if isinstance(item, InputError):
            raise item
        if group and (len(group) == size or is_shard(item) or is_shard(group[0])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _list(groups: Iterable[list[str]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("address", pyarrow.binary())])  # a path need not be UTF-8
    data = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(data, schema, compression="zstd") as file:
        for group in groups:
            column = pyarrow.array([os.fsencode(address) for address in group], pyarrow.binary())
            file.write_table(pyarrow.Table.from_arrays([column], schema=schema), row_group_size=len(group))
    return data.getvalue()


def _table_of(pipe: Pipeline[Any]) -> Callable[[Sequence[Any]], bytes]:
    """What makes a part's file of its results."""
    _, height, width = pipe.card.input.size
    example = pipe(
        np.zeros((height, width, 3), np.uint8)
    )  # a part may hold bad inputs alone, and has a width all the same
    columns = _vectors(len(example)) if isinstance(example, Embedding) else _predictions()

    def table(rows: Sequence[Any]) -> bytes:
        import pyarrow
        import pyarrow.parquet

        named = {
            "source": pyarrow.array([as_text(row.source) for row in rows], pyarrow.string()),
            **columns(rows),
            "error": pyarrow.array([_words(row.error) for row in rows], pyarrow.string()),
        }
        data = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(named), data, compression="zstd")
        return data.getvalue()

    return table


def _vectors(width: int) -> Callable[[Sequence[Embedding]], dict[str, Any]]:
    def columns(rows: Sequence[Embedding]) -> dict[str, Any]:
        import pyarrow

        blank = np.zeros(width, np.float32)
        flat = pyarrow.array(np.concatenate([blank if row.error else row.vector for row in rows]))
        bad = pyarrow.array([row.error is not None for row in rows])
        return {"vector": pyarrow.FixedSizeListArray.from_arrays(flat, width, mask=bad)}

    return columns


def _predictions() -> Callable[[Sequence[Classification]], dict[str, Any]]:
    def columns(rows: Sequence[Classification]) -> dict[str, Any]:
        import pyarrow

        def lists(values: Callable[[Classification], Any], kind: Any) -> Any:
            return pyarrow.array([None if row.error else values(row) for row in rows], pyarrow.list_(kind))

        return {
            "labels": lists(lambda row: list(row.labels), pyarrow.string()),
            "indices": lists(lambda row: row.indices, pyarrow.int32()),
            "scores": lists(lambda row: row.scores, pyarrow.float32()),
        }

    return columns


def _name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _words(error: ZooError | None) -> str | None:
    return as_text(error.message) if error else None
