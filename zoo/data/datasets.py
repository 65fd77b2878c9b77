"""Published sets as arrays: small pictures held in memory, read from whichever of their distributions is there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo import settings
from zoo.data.texts import ARRAY_FAULTS
from zoo.errors import InputError, UnknownName, UsageError, one_line

__all__ = ["Pictures", "augment", "dataset_names", "load_pictures"]


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size with their classes.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, indices into `names`.
        names: Names of the classes.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images are {self.images.dtype} {tuple(self.images.shape)}; uint8 (N, H, W, C) is needed")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise ValueError(f"labels are {self.labels.dtype} {tuple(self.labels.shape)} for {len(self.images)} images")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise ValueError(
                f"labels reach from {self.labels.min()} to {self.labels.max()}, of {len(self.names)} classes"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> "Pictures":
        return Pictures(self.images[index], self.labels[index], self.names)

    def split(self, held_out: int, seed: int) -> tuple["Pictures", "Pictures"]:
        """The pictures left and `held_out` drawn by a seed, the same for every run with that seed."""
        order = torch.from_numpy(np.random.default_rng((seed, 1)).permutation(len(self)))
        return self[order[held_out:].sort().values], self[order[:held_out].sort().values]

    def batches(self, size: int) -> Iterator["Pictures"]:
        """The pictures in order, `size` at a time."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))


def augment(images: Tensor, size: int, padding: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """A random square out of each zero-padded picture, half of them mirrored.

    Args:
        images: (B, H, W, C) uint8.
        size: Side of the square.
        padding: Pixels of zeros on each side before the crop.
        flip: Whether to mirror.
        rng: Source of chance; the same state gives the same pictures.

    Returns:
        (B, size, size, C) uint8.
    """
    count, height, width, _ = images.shape
    down, right = (rng.integers(0, side + 2 * padding - size + 1, (count, 1)) for side in (height, width))
    rows = torch.arange(size) + torch.from_numpy(down)
    columns = torch.arange(size) + torch.from_numpy(right)
    if flip:
        columns = torch.where(torch.from_numpy(rng.random((count, 1)) < 0.5), columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def dataset_names() -> list[str]:
    """Names that `load_pictures` knows."""
    return sorted(_READERS)


def load_pictures(name: str, split: str, root: Path | None = None) -> Pictures:
    """One part of a published set.

    Args:
        name: One of `dataset_names()`.
        split: Part of the set.
        root: Folder that holds sets, by default the data folder of the settings. The set is looked for in `root/name`
            and in `root` itself, as `train.npz` and `test.npz` (arrays images, labels, names) or in the form in which
            torchvision stores it; torchvision downloads it there unless the network is off limits.

    Raises:
        UnknownName: No such set.
        UsageError: No such part.
        InputError: The set is not there and cannot be fetched, or its files are damaged.
    """
    if name not in _READERS:
        raise UnknownName(f"no data set {name!r}", hint=f"one of {', '.join(dataset_names())}")
    if split not in ("train", "test"):
        raise UsageError(f"{name} has no part {split!r}", hint="train and test exist")
    root = root or settings.data_root()
    for folder in (root / name, root):
        if (folder / f"{split}.npz").is_file():
            return _read_npz(folder / f"{split}.npz")
    return _READERS[name](root / name if (root / name).is_dir() else root, split)


def _read_npz(path: Path) -> Pictures:
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # numpy leaves a damaged file open
            images, labels, names = (arrays[key] for key in ("images", "labels", "names"))
        return Pictures(torch.from_numpy(images), torch.from_numpy(labels), tuple(names.tolist()))
    except ARRAY_FAULTS as error:
        raise InputError(
            f"{path} cannot be read: {one_line(error)}", hint="it holds the arrays images, labels and names"
        ) from None


def _torchvision(kind: str) -> Callable[[Path, str], Pictures]:
    def read(root: Path, split: str) -> Pictures:
        import torchvision

        try:
            source = getattr(torchvision.datasets, kind)(
                root, train=split == "train", download=not settings.hub_offline()
            )
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{kind} is not under {root}: {one_line(error)}",
                hint="give the folder that holds it: --data DIR, or ZOO_DATA=DIR",
            ) from None
        return Pictures(torch.from_numpy(source.data), torch.tensor(source.targets), tuple(source.classes))

    return read


_READERS: dict[str, Callable[[Path, str], Pictures]] = {
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
}
