"""Batches of a training: each a function of the seed, the epoch and the step alone.

Nothing before a step decides what is in it, so a run goes on in the middle of an epoch with the same pictures, whatever
the number of worker processes.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.datasets import Pictures, augment
from zoo.data.sources import Samples, array_samples
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, ZooError, one_line
from zoo.registry.card import Input
from zoo.tasks.decode import leave_interrupts
from zoo.train.recipe import Augment, Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Batch", "Feed", "Learnt", "Measured", "picture_side", "seed_everything", "share"]

ORDER, AUGMENTATION, STEP = 2, 3, 4  # streams of chance beside the seed's own
STAND_INS = 10  # pictures tried in an unreadable one's place
NOBODY = -1  # place, and label, of a row that only fills a batch up

T = TypeVar("T")


class Batch(NamedTuple):
    """What one process gets at once.

    Attributes:
        images: (B, H, W, C) uint8.
        labels: (B,) int64; `NOBODY` for rows that do not count.
        bad: What is wrong with the files that could not be read.
    """

    images: Tensor
    labels: Tensor
    bad: list[str]

    def parts(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Pictures and labels in parts."""
        return list(zip(self.images.chunk(count), self.labels.chunk(count), strict=True))


def seed_everything(*numbers: int) -> None:
    """Put Python's, NumPy's and torch's chance into a state that depends on these numbers alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # timm's augmentation draws from the global generator
    torch.default_generator.manual_seed(seed)  # torch.manual_seed notes a stack trace for CUDA's start: 0.7 ms
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)


def share(count: int, rank: int, world: int) -> Tensor:
    """Places out of `count` that are a process's; all processes get as many, filled up with `NOBODY`."""
    places = torch.full((-(-count // world) * world,), NOBODY)
    places[:count] = torch.arange(count)
    return places[rank::world]


def picture_side(data: Pictures | Samples, size: int, input: Input) -> int:
    """Side of the pictures that a network learns from: as asked for, else the arrays', else the card's."""
    return size or (data.images.shape[1] if isinstance(data, Pictures) else input.size[1])


class Learnt(Dataset[Batch]):
    """Batches to learn from, by (epoch, step).

    Args:
        data: What is trained on.
        recipe: How.
        input: The network's preprocessing.
        rank: This process; each has its own part of every batch.
        world: Number of processes.

    Attributes:
        is_slow: Whether pictures are prepared one by one, so that further processes pay.
    """

    def __init__(self, data: Pictures | Samples, recipe: Recipe, input: Input, rank: int = 0, world: int = 1) -> None:
        self.data = data
        self.recipe = recipe
        self.input = input
        self.mine: Sequence[int] = range(recipe.schedule.batch_size)[rank::world]  # places in the batch's rows
        self.side = picture_side(data, recipe.data.size, input)
        as_they_are = isinstance(data, Pictures) and self.side == data.images.shape[1] and not recipe.augment.scale
        self.samples = None if as_they_are else array_samples(data) if isinstance(data, Pictures) else data
        self.is_slow = bool(self.samples or recipe.augment.auto or recipe.augment.jitter)
        self.crop = Preprocess(_of_side(input, self.side)).crop

    def rows(self, epoch: int, step: int) -> Tensor:
        """Pictures of a batch, those of all processes."""
        count = self.recipe.schedule.batch_size
        return _order(len(self.data), self.recipe.seed, epoch, self.recipe.augment.repeats)[step * count :][:count]

    def __getitem__(self, at: tuple[int, int]) -> Batch:
        (epoch, step), wanted, seed = at, self.recipe.data, self.recipe.seed
        rows = self.rows(epoch, step)
        is_still = epoch >= self.recipe.schedule.epochs - wanted.still_epochs
        side = wanted.crop if epoch < wanted.crop_epochs else self.side
        padding = 0 if is_still else wanted.padding
        cut, change = (None, None) if is_still else _changes(self.recipe.augment, side, self.input)
        if self.samples is None:
            assert isinstance(self.data, Pictures)
            chance = np.random.default_rng((seed, AUGMENTATION, epoch, step))
            images = augment(self.data.images[rows], side, padding, wanted.flip, chance)[self.mine]
            if change:
                changed = []
                for place, image in zip(self.mine, images, strict=True):
                    seed_everything(seed, AUGMENTATION, epoch, step, place)
                    changed.append(_applied(change, image))
                images = torch.stack(changed)
            return Batch(images, self.data.labels[rows][self.mine], [])
        found: list[tuple[Tensor, Tensor]] = []
        bad: list[str] = []
        for place in self.mine:
            image, label = self._read(int(rows[place]), bad)
            seed_everything(seed, AUGMENTATION, epoch, step, place)
            chance = np.random.default_rng((seed, AUGMENTATION, epoch, step, place))
            if cut:
                array = np.asarray(cut(image))
                is_mirrored = wanted.flip and chance.random() < 0.5
                pixels = torch.from_numpy((array[:, ::-1] if is_mirrored else array).copy())
            else:
                pixels = torch.from_numpy(self.crop(image).copy())
                pixels = augment(pixels[None], side, padding, wanted.flip, chance)[0]
            found.append((_applied(change, pixels) if change else pixels, label))
        images, labels = (torch.stack(part) for part in zip(*found, strict=True))
        return Batch(images, labels, bad)

    def _read(self, row: int, bad: list[str]) -> "tuple[Image, Tensor]":
        """The picture of a row, or the next one that can be read; what was wrong is added to `bad`.

        Raises:
            ZooError: Many in a row cannot.
        """
        assert self.samples is not None
        for tried in range(STAND_INS + 1):
            index = (row + tried) % len(self.samples)
            try:
                return self.samples.image(index), self.samples.labels[index]
            except ZooError as error:
                bad.append(error.message)
                last = error
        raise last


class Measured(Dataset[Batch]):
    """Pictures as the network will meet them, by their places.

    Args:
        data: What is measured on.
        side: Of the pictures.
        input: The network's preprocessing.
    """

    def __init__(self, data: Pictures | Samples, side: int, input: Input) -> None:
        self.data = data
        as_they_are = isinstance(data, Pictures) and side == data.images.shape[1]
        self.samples = None if as_they_are else array_samples(data) if isinstance(data, Pictures) else data
        self.crop = Preprocess(_of_side(input, side)).crop
        self.shape = (side, side, input.size[0])

    def __getitem__(self, places: Tensor) -> Batch:
        labels = torch.where(places == NOBODY, NOBODY, self.data.labels[places])
        if self.samples is None:
            assert isinstance(self.data, Pictures)
            return Batch(self.data.images[places], labels, [])
        images, bad = torch.zeros((len(places), *self.shape), dtype=torch.uint8), []
        for at, place in enumerate(places.tolist()):
            try:
                if place != NOBODY:
                    images[at] = torch.from_numpy(self.crop(self.samples.image(place)).copy())
            except ZooError as error:
                labels[at] = NOBODY
                bad.append(error.message)
        return Batch(images, labels, bad)


class Feed(Generic[T]):
    """A data set's batches in the order that is asked for, made here or in processes that stay.

    Args:
        batches: What is asked.
        workers: Processes; 0 makes the batches in this one.
        pin: Whether they go to a GPU.
    """

    def __init__(self, batches: Dataset[Batch], workers: int = 0, pin: bool = False) -> None:
        self._wanted = _Wanted()
        self._loader = DataLoader(
            batches,
            batch_size=None,
            sampler=self._wanted,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_start_worker if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # its draws are not taken from the training's chance
        )

    def __call__(self, wanted: list[T]) -> Iterator[Batch]:
        """The batches of these keys.

        Raises:
            ZooError: A worker died.
            InputError: Pictures in a row cannot be read.
        """
        self._wanted.keys = wanted
        try:
            yield from self._loader
        except ZooError as error:
            said = error.message.strip().rpartition("Error: ")[2]  # from a process it comes behind a traceback
            raise InputError(
                f"{STAND_INS + 1} pictures in a row cannot be read; {said}", hint="mend the data set"
            ) from None
        except (RuntimeError, OSError, EOFError) as error:
            # it dies between two batches, or while one is handed over; what it merely raises says "Caught ..."
            handed_over = self._loader.num_workers and not isinstance(error, RuntimeError)
            if "DataLoader worker (pid" not in str(error) and (not handed_over or str(error).startswith("Caught")):
                raise
            raise ZooError(
                f"a process that prepares pictures died: {one_line(error)}",
                hint="memory may be short: --workers 1, or 0; the same command goes on from the last checkpoint",
            ) from None


class _Wanted(Sampler[Any]):
    """The keys of the next pass; the loader keeps its processes from pass to pass."""

    def __init__(self) -> None:
        self.keys: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _start_worker(number: int) -> None:
    leave_interrupts()


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int, repeats: int) -> Tensor:
    """Rows of an epoch. Repeated ones stand side by side, so that processes, which take turns, share them."""
    order = np.random.default_rng((seed, ORDER, epoch)).permutation(count)
    return torch.from_numpy(order.repeat(repeats)[:count] if repeats > 1 else order)


@lru_cache(maxsize=8)
def _changes(
    wanted: Augment, side: int, input: Input
) -> "tuple[Callable[[Image], Image] | None, Callable[[Image], Image] | None]":
    """The random crop of timm, and what it does to colours and shapes; None for what is not wanted."""
    from timm.data import auto_augment
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms

    cut = None
    if wanted.scale:
        cut = RandomResizedCropAndInterpolation(side, wanted.scale, wanted.ratio, input.interpolation)
    steps = []
    if wanted.auto:
        mean = tuple(round(255 * value) for value in input.mean)
        policy = {"rand": auto_augment.rand_augment_transform, "augm": auto_augment.augment_and_mix_transform}.get(
            wanted.auto[:4], auto_augment.auto_augment_transform
        )
        steps.append(policy(wanted.auto, {"translate_const": int(0.45 * side), "img_mean": mean}))
    if wanted.jitter:
        steps.append(transforms.ColorJitter(*[wanted.jitter] * 3))
    return cut, transforms.Compose(steps) if steps else None


def _applied(change: "Callable[[Image], Image]", pixels: Tensor) -> Tensor:
    from PIL import Image

    return torch.from_numpy(np.array(change(Image.fromarray(pixels.numpy()))))


def _of_side(input: Input, side: int) -> Input:
    return input if input.size[1:] == (side, side) else msgspec.structs.replace(input, size=(input.size[0], side, side))
