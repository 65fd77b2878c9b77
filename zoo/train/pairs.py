"""Steps of a training across modalities: some identities, each with visible and infrared pictures and their shape maps.

Each step is a function of the seed, the epoch and the step alone.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.crops import Crops
from zoo.data.images import read_picture
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, ZooError
from zoo.registry.card import Input
from zoo.train.feed import AUGMENTATION, ORDER

__all__ = ["KEEP", "Pairs", "PairsPart", "ToLearn", "changed", "steps_of"]

WHOLE = 288  # height for which the authors pad by PADDING
PADDING = 10
ERASED = (0.4914, 0.4822, 0.4465)  # what a rectangle is filled with, behind the normalisation
GREY = (0.2989, 0.5870, 0.1140)
KEEP, MIX = -1, 3  # what becomes of a picture's channels, besides the number of the one that all become


class PairsPart(NamedTuple):
    """Rows of B identities in step, one picture of each modality a row.

    Attributes:
        photographs: (2, B, H, W, C) uint8, visible ones and infrared ones.
        shapes: (2, B, H, W, C) uint8, their shape maps; none where training does without.
        areas: (2, B, 4) top, left, bottom and right of the rectangle to erase.
        channels: (2, B) the channel that all become, or `KEEP`, or `MIX` for their grey.
        labels: (B,) int64.
    """

    photographs: Tensor
    shapes: Tensor | None
    areas: Tensor
    channels: Tensor
    labels: Tensor


class Pairs(NamedTuple):
    """What one process learns from in one step.

    Attributes:
        whole: All rows.
        bad: What is wrong with the files that could not be read.
    """

    whole: PairsPart
    bad: list[str]

    def parts(self, count: int) -> list[PairsPart]:
        """The rows in parts; an identity's stay together."""
        chunks = [[None] * count if t is None else t.chunk(count, 1) for t in self.whole[:-1]]
        return [PairsPart(*part) for part in zip(*chunks, self.whole.labels.chunk(count), strict=True)]


def steps_of(crops: Crops, rows: int) -> int:
    """Steps of an epoch: as many as show the more frequent modality about once."""
    infrared = int(crops.infrared.sum())
    return max(len(crops) - infrared, infrared) // rows + 1


class ToLearn(Dataset[Pairs]):
    """Steps by (epoch, step).

    Args:
        crops: What is learnt from; identities without one of the modalities are left out.
        identities: In a step, over all processes.
        views: Pictures of each identity and modality.
        input: The network's preprocessing.
        seed: Of the training.
        shapes: Whether shape maps are read.
        rank: This process; each has identities of its own.
        world: Number of processes.

    Attributes:
        names: Identities in the order of their labels.

    Raises:
        InputError: There are fewer identities with both modalities than a step has.
    """

    def __init__(
        self,
        crops: Crops,
        identities: int,
        views: int,
        input: Input,
        seed: int,
        *,
        shapes: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.crops, self.identities, self.views, self.seed, self.shapes = crops, identities, views, seed, shapes
        self.rank, self.world = rank, world
        self.input, self.crop = input, Preprocess(input).crop
        both = np.intersect1d(crops.ids[~crops.infrared], crops.ids[crops.infrared])
        self.names = [int(pid) for pid in both]
        if len(both) < identities:
            raise InputError(
                f"{len(both)} identities have pictures of both modalities, a step has {identities}",
                hint="lower method_args.identities, with schedule.batch_size, or check the data",
            )
        self.rows = {
            (pid, infrared): np.flatnonzero((crops.ids == pid) & (crops.infrared == infrared))
            for pid in self.names
            for infrared in (False, True)
        }

    def __getitem__(self, at: tuple[int, int]) -> Pairs:
        chance = np.random.default_rng((self.seed, ORDER, *at))
        drawn = chance.choice(len(self.names), self.identities, replace=False)
        rows = [
            [chance.choice(self.rows[self.names[label], infrared], self.views) for infrared in (False, True)]
            for label in drawn
        ]
        bad: list[str] = []
        found: list[list[tuple[NDArray[np.uint8], NDArray[np.uint8] | None, tuple[int, ...], int]]] = [[], []]
        mine = range(self.rank, self.identities, self.world)
        for place in mine:
            for modality, views in enumerate(rows[place]):
                for view, row in enumerate(views):
                    own = np.random.default_rng((self.seed, AUGMENTATION, *at, place, modality, view))
                    found[modality].append(self._view(int(row), bool(modality), own, bad))
        photographs, maps, areas, channels = zip(*(zip(*side, strict=True) for side in found), strict=True)
        whole = PairsPart(
            torch.from_numpy(np.stack([np.stack(side) for side in photographs])),
            torch.from_numpy(np.stack([np.stack(side) for side in maps])) if self.shapes else None,
            torch.tensor(areas),
            torch.tensor(channels),
            torch.from_numpy(np.repeat(drawn[list(mine)], self.views)),
        )
        return Pairs(whole, bad)

    def _view(
        self, row: int, infrared: bool, chance: Generator, bad: list[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, tuple[int, ...], int]:
        """Photograph and shape map, each moved by itself, rectangle to erase, and what the channels become.

        Raises:
            InputError: Neither this nor any other picture of the identity can be read.
        """
        own = self.rows[int(self.crops.ids[row]), infrared]
        start = int(np.flatnonzero(own == row)[0])
        for tried in np.roll(own, -start):
            try:
                photograph = self.crop(read_picture(self.crops.photographs[tried]).image)
                shape = self.crop(read_picture(self.crops.shapes[tried]).image) if self.shapes else None
                break
            except ZooError as error:
                bad.append(error.message)
                last = error
        else:
            raise last
        return (
            _moved(photograph, chance),
            None if shape is None else _moved(shape, chance),
            _area(photograph.shape[:2], chance),
            _channel(infrared, chance),
        )


def changed(x: Tensor, areas: Tensor, channels: Tensor) -> Tensor:
    """Normalised pictures with their rectangles erased and their channels exchanged.

    Args:
        x: (B, C, H, W), changed in place.
        areas: (B, 4) as in `PairsPart`.
        channels: (B,) as in `PairsPart`.
    """
    fill = torch.tensor(ERASED, device=x.device, dtype=x.dtype)[: x.shape[1], None, None]
    for picture, (top, left, bottom, right), channel in zip(x, areas.tolist(), channels.tolist(), strict=True):
        picture[:, top:bottom, left:right] = fill
        if channel == MIX:
            picture[:] = torch.tensordot(torch.tensor(GREY, device=x.device, dtype=x.dtype), picture, 1)
        elif channel != KEEP:
            picture[:] = picture[channel].clone()
    return x


def _moved(image: NDArray[np.uint8], chance: Generator) -> NDArray[np.uint8]:
    """A random cut of the padded picture, mirrored or not."""
    height, width = image.shape[:2]
    by = max(1, round(PADDING * height / WHOLE))
    top, left = (int(v) for v in chance.integers(0, 2 * by + 1, 2))
    cut = np.pad(image, ((by, by), (by, by), (0, 0)))[top : top + height, left : left + width]
    return np.ascontiguousarray(cut[:, ::-1] if chance.random() < 0.5 else cut)


def _area(size: tuple[int, int], chance: Generator) -> tuple[int, ...]:
    """A rectangle of 2 to 40% of the picture for half of them, an empty one for the others."""
    if chance.random() >= 0.5:
        return 0, 0, 0, 0
    for _ in range(100):
        area, aspect = chance.uniform(0.02, 0.4) * size[0] * size[1], chance.uniform(0.3, 1 / 0.3)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height < size[0] and width < size[1]:
            top, left = chance.integers(0, size[0] - height + 1), chance.integers(0, size[1] - width + 1)
            return int(top), int(left), int(top) + height, int(left) + width
    return 0, 0, 0, 0


def _channel(infrared: bool, chance: Generator) -> int:
    """Half of the visible pictures show one channel thrice; infrared ones one of the three, their grey, or themselves.

    No idle change of grey pictures: normalisation makes their channels differ.
    """
    if not infrared:
        return int(chance.integers(3)) if chance.random() < 0.5 else KEEP
    drawn = int(chance.integers(4))
    return drawn if drawn < MIX or chance.random() < 0.5 else KEEP
