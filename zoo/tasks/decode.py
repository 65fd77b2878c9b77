"""Decoding ahead of the network: in order, a bounded distance ahead, here or in processes."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo.data.images import Encoded, Item, Picture, from_array, from_image, read_picture
from zoo.data.transforms import Preprocess
from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Decoded", "cores", "decode", "decoded", "leave_interrupts", "reread", "spare_cores"]

CHUNK = 32  # pictures that a worker decodes at a time
FEW = 256  # pictures up to which workers are not worth their start


@dataclass(frozen=True)
class Decoded:
    """One input on its way to the network: cropped pixels, or what is wrong with it.

    Attributes:
        source: What the result calls it.
        item: What was given.
        pixels: (H, W, C) uint8, of the network's size.
        size: Width and height of the whole picture.
        note: What was done beyond plain decoding.
        error: Why there are no pixels.
    """

    source: str
    item: Item = None
    pixels: NDArray[np.uint8] | None = None
    size: tuple[int, int] | None = None
    note: str | None = None
    error: ZooError | None = None


def decode(item: Item, preprocess: Preprocess) -> Decoded:
    """One input, cropped; an unusable one carries its error instead."""
    source = _source(item)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and preprocess.keeps(item.shape):
        return Decoded(source, item, item, (item.shape[1], item.shape[0]))
    try:
        picture = _open(item, source)
    except ZooError as error:
        return Decoded(source, item, error=error)
    return Decoded(source, item, preprocess.crop(picture.image), picture.image.size, picture.note)


def reread(item: Item) -> "Image":
    """The RGB picture of an input, once more.

    Raises:
        InputError: It is gone or was never one.
    """
    return _open(item, _source(item)).image


def _open(item: Item, source: str) -> Picture:
    if isinstance(item, ZooError):
        raise item
    if isinstance(item, str | os.PathLike):
        return read_picture(item)
    if isinstance(item, Encoded):
        return read_picture(item.content, name=item.name)
    if hasattr(item, "getexif"):  # a Pillow picture, told without importing Pillow for paths
        return from_image(item, source)
    return from_array(item, source)


def _source(item: Item) -> str:
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if isinstance(item, Encoded):
        return item.name
    if isinstance(item, ZooError):
        return item.source or item.message.partition(":")[0]
    return getattr(item, "filename", "") or f"<{type(item).__name__}>"


def decoded(
    items: Iterable[Item],
    preprocess: Preprocess,
    workers: int | None,
    ahead: int,
    beside: Callable[[int], AbstractContextManager[None]] = lambda workers: nullcontext(),
) -> Iterator[Decoded]:
    """Every input, decoded, in order.

    Processes rather than threads: most of a small picture's time is Python's, which threads take from the network.

    Args:
        items: Inputs; taken only as far ahead as needed.
        preprocess: Crops to the network's size.
        workers: Processes; 0 decodes in this one; None starts processes once there are enough inputs.
        ahead: Pictures decoded before they are asked for.
        beside: What to enter, given their number, while processes decode.
    """
    items = iter(items)
    one = partial(decode, preprocess=preprocess)
    if workers == 0:
        yield from map(one, items)
        return
    if workers is None:
        head = list(islice(items, FEW))
        yield from map(one, head)
        first = next(items, None) if len(head) == FEW else None
        if first is None:
            return
        items = chain((first,), items)
        workers = spare_cores()
    with beside(workers), _pool(workers) as pool:
        chunks = iter(lambda: list(islice(items, CHUNK)), [])
        together = partial(_decode_all, preprocess=preprocess)
        yield from chain.from_iterable(_ordered(pool, together, chunks, max(2 * workers, ahead // CHUNK)))


def _decode_all(items: list[Item], preprocess: Preprocess) -> list[Decoded]:
    return [decode(item, preprocess) for item in items]


def _ordered(
    pool: Executor, function: Callable[[list[Item]], list[Decoded]], tasks: Iterator[list[Item]], ahead: int
) -> Iterator[list[Decoded]]:
    """Results in the order of the tasks, with at most `ahead` under way."""
    waiting: deque[Future[list[Decoded]]] = deque(pool.submit(function, task) for task in islice(tasks, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, task) for task in islice(tasks, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def _pool(workers: int) -> Executor:
    """Fresh processes: a fork would copy the threads' locks of torch, held or not."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=leave_interrupts)


def leave_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the one that started the workers ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def spare_cores() -> int:
    """Worker processes by default: half the cores this process may use, at least one and at most eight."""
    return min(8, max(1, cores() // 2))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
