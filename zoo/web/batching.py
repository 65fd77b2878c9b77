"""Pictures of many requests as batches of one network.

The network is never kept waiting for a batch to fill: it takes what is there, and while it runs the next batch gathers.
Under light load a picture goes alone and at once, under heavy load batches are as large as allowed.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zoo.data.images import Item
from zoo.tasks.decode import Decoded, cores
from zoo.tasks.pipeline import Pipeline

__all__ = ["Batcher", "Busy", "Stopping"]

Waiting = tuple[Decoded, asyncio.Future[Any]]


class Busy(Exception):
    """There is no room for more pictures."""


class Stopping(Exception):
    """No more pictures are taken."""


class Batcher:
    """Runs a pipeline for requests of one event loop: threads decode, one thread runs the network.

    Args:
        pipe: What answers.
        room: Pictures that may be inside at once, decoding, waiting or running.
        seen: Called with the size of each batch.
    """

    def __init__(self, pipe: Pipeline[Any], room: int, seen: Callable[[int], None] = lambda size: None) -> None:
        self.pipe = pipe
        self.room = room
        self.seen = seen
        self.inside = 0
        self._waiting: deque[Waiting] = deque()
        self._some = asyncio.Event()
        self._groups = cores()  # that a request's pictures are decoded in, a thread each
        self._decoders = ThreadPoolExecutor(self._groups, "decode")
        self._network = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer; within the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Refuse new pictures; come back once those inside are answered."""
        task, self._task = self._task, None
        self._some.set()
        if task:
            await task
        self._decoders.shutdown()
        self._network.shutdown()

    @property
    def is_open(self) -> bool:
        """Whether pictures are taken."""
        return self._task is not None

    async def answer(self, items: list[Item]) -> list[Any]:
        """Results in the order of the items; a bad one has its error.

        When the caller gives up, pictures that have not begun to run are forgotten.

        Raises:
            Busy: There is no room for them; none was taken.
            Stopping: `stop` was called.
        """
        if not self.is_open:
            raise Stopping
        if self.inside + len(items) > self.room:
            raise Busy
        self.inside += len(items)
        try:
            groups = [items[first :: self._groups] for first in range(min(self._groups, len(items)))]
            parts = await asyncio.gather(*map(self._answered, groups))
        finally:
            self.inside -= len(items)
        return [parts[place % len(groups)][place // len(groups)] for place in range(len(items))]

    async def _answered(self, items: list[Item]) -> list[Any]:
        """Results of pictures that one thread decodes."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Any]] = []
        for picture in await loop.run_in_executor(self._decoders, self._decoded, items):
            answers.append(loop.create_future())
            if picture.error:
                answers[-1].set_result(next(self.pipe.answers([picture])))
            else:
                self._waiting.append((picture, answers[-1]))
        self._some.set()
        return await asyncio.gather(*answers)

    def _decoded(self, items: list[Item]) -> list[Decoded]:
        return [self.pipe.decode(item) for item in items]

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._task is not None or self.inside:
            await self._some.wait()
            batch = self._take()
            if not batch:
                self._some.clear()
                if self._task is None:
                    await asyncio.sleep(0.01)  # the last pictures are being decoded
                    self._some.set()
                continue
            self.seen(len(batch))
            try:
                results = await loop.run_in_executor(self._network, self._answers, [picture for picture, _ in batch])
            except Exception as error:  # a fault of ours or of the device: these requests fail, the next may not
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)

    def _take(self) -> list[Waiting]:
        """The next batch: what waits longest, without what was given up."""
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self.pipe.batch_size:
            picture, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((picture, answer))
        return batch

    def _answers(self, batch: list[Decoded]) -> list[Any]:
        return list(self.pipe.answers(batch))
