"""Labelled pictures wherever they lie: in memory, as files, in lists, in shards, in other libraries' sets."""

import csv
import inspect
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo import settings
from zoo.data.datasets import Pictures, dataset_names, load_pictures
from zoo.data.images import SUFFIXES, Item, expand, from_array, from_image, read_picture
from zoo.errors import InputError, UsageError, one_line
from zoo.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Samples", "aligned", "array_samples", "open_data"]

LABEL_SUFFIXES = (".cls", ".txt")  # of webdataset's members


@dataclass(frozen=True)
class Samples:
    """Pictures that are decoded when they are asked for. Can be sent to a worker process.

    Attributes:
        read: The picture behind a number; raises `InputError` for a bad one.
        rows: (N,) int64, numbers to read.
        labels: (N,) int64, indices into `names`.
        names: Names of the classes.
    """

    read: Callable[[int], "Image"]
    rows: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "Samples":
        return Samples(self.read, self.rows[index], self.labels[index], self.names)

    def split(self, held_out: int, seed: int) -> tuple["Samples", "Samples"]:
        """As `Pictures.split`."""
        order = torch.from_numpy(np.random.default_rng((seed, 1)).permutation(len(self)))
        return self[order[held_out:].sort().values], self[order[:held_out].sort().values]

    def image(self, index: int) -> "Image":
        """The RGB picture at a place.

        Raises:
            InputError: It cannot be read.
        """
        return self.read(int(self.rows[index]))

    def item(self, index: int) -> Item:
        """What a pipeline takes for the picture at a place: its path, the picture, or what is wrong with it."""
        if isinstance(self.read, _Files):
            return self.read.paths[int(self.rows[index])]
        try:
            return self.image(index)
        except InputError as error:
            return error


def open_data(name: str, split: str, root: Path | None = None) -> Pictures | Samples:
    """One part of a set.

    Args:
        name: A published set (`dataset_names()`), "hf:" and a name or folder for Hugging Face's `datasets`,
            "torchvision:" and a class of `torchvision.datasets`, or a place, looked for below `root` and as a path:
            a folder with one folder of pictures a class, below `split` or directly; a folder with `split.csv`,
            `split.parquet` or `split*.tar`; one list or shard, or a pattern of shards. Lists have the columns `path`
            (relative to the list) and `label`; shards follow webdataset: `KEY.jpg` beside `KEY.cls`.
        split: Part of the set.
        root: Folder that holds sets, by default the data folder of the settings.

    Raises:
        InputError: Nothing is there, or what is there cannot be read.
        UsageError: A library for it is missing, or the set has no such part.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "hf":
        return _hugging_face(rest, split)
    if colon and kind == "torchvision":
        return _torchvision(rest, split, root or settings.data_root())
    if name in dataset_names():
        return load_pictures(name, split, root)
    place = _place(name, root or settings.data_root())
    if place is None:
        raise InputError(
            f"{name} is neither a published set nor a file or folder, here or in {root or settings.data_root()}",
            hint=f"published sets: {', '.join(dataset_names())}; others lie in a folder: --data DIR, or ZOO_DATA=DIR",
        )
    if isinstance(place, Path) and place.is_dir():
        lists = [place / f"{split}{suffix}" for suffix in (".csv", ".parquet")]
        if found := [path for path in lists if path.is_file()]:
            return _list(found[0])
        if shards := sorted(place.glob(f"{split}*.tar")):
            return _shards(shards)
        return _folder(place / split if (place / split).is_dir() else place)
    if isinstance(place, Path) and place.suffix in (".csv", ".parquet"):
        return _list(place)
    return _shards(place if isinstance(place, list) else [place])


def array_samples(pictures: Pictures) -> Samples:
    """Pictures in memory in the other form."""
    return Samples(_Arrays(pictures.images), torch.arange(len(pictures)), pictures.labels, pictures.names)


def aligned(data: Pictures | Samples, names: tuple[str, ...], what: str) -> Pictures | Samples:
    """The same pictures with their classes numbered as in `names`.

    Case, dashes and underscores make no difference. Names that are all numbers, as lists and folders may have them,
    and no names among these, stay numbers.

    Raises:
        UsageError: A class that is not among them.
    """
    if data.names == names:
        return data
    numbers = {_plain(name): number for number, name in enumerate(names)}
    strange = [name for name in data.names if _plain(name) not in numbers]
    if strange and isinstance(data, Samples) and all(name.isdecimal() for name in data.names):
        numbers = {_plain(name): int(name) for name in data.names if int(name) < len(names)}
        strange = [name for name in data.names if _plain(name) not in numbers]
    if strange:
        raise UsageError(
            f"{what}: no class is called {', '.join(strange[:3])}",
            hint=f"classes are named as the network's: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
        )
    labels = torch.tensor([numbers[_plain(name)] for name in data.names])[data.labels]
    return replace(data, labels=labels, names=names)


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def _place(name: str, root: Path) -> Path | list[Path] | None:
    """The file or folder of a name, or the files of a pattern; None if there is nothing."""
    for base in (root, Path()):
        if (base / name).exists():
            return base / name
        if "*" in name and (found := sorted(base.glob(name) if not Path(name).is_absolute() else _absolute(name))):
            return found
    return None


def _absolute(pattern: str) -> Iterable[Path]:
    path = Path(pattern)
    return Path(path.anchor).glob(str(path.relative_to(path.anchor)))


@dataclass(frozen=True)
class _Arrays:
    images: Tensor

    def __call__(self, row: int) -> "Image":
        return from_array(self.images[row].numpy(), f"picture {row}").image


@dataclass(frozen=True)
class _Files:
    paths: tuple[str, ...]

    def __call__(self, row: int) -> "Image":
        return read_picture(self.paths[row]).image


@dataclass(frozen=True)
class _Members:
    """Pictures inside tar files: file, first byte, bytes, name."""

    entries: tuple[tuple[str, int, int, str], ...]

    def __call__(self, row: int) -> "Image":
        path, offset, size, name = self.entries[row]
        try:
            with Path(path).open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
        return read_picture(content, name=f"{path}/{name}").image


@dataclass(frozen=True)
class _Foreign:
    """A set of another library: `column` of its rows, or the first of its pairs."""

    source: Any
    column: str | int

    def __call__(self, row: int) -> "Image":
        try:
            value = self.source[row][self.column]
        except Exception as error:  # whatever the library makes of a bad file
            raise InputError(f"row {row}: {one_line(error)}", hint="mend the data set") from None
        name = f"row {row}"
        return from_image(value, name).image if hasattr(value, "getexif") else from_array(value, name).image


def _samples(read: Callable[[int], "Image"], labels: Sequence[int], names: Sequence[str], where: str) -> Samples:
    if not len(labels):
        raise InputError(
            f"{where} holds no pictures", hint="one folder of pictures a class, a list of path and label, or shards"
        )
    return Samples(read, torch.arange(len(labels)), torch.tensor(labels, dtype=torch.int64), tuple(names))


def _folder(folder: Path) -> Samples:
    """One folder of pictures a class, classes in the order of their names."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} holds no class folders", hint="one folder of pictures a class")
    found = [(path, label) for label, inner in enumerate(classes) for path in expand([inner]) if isinstance(path, str)]
    paths = tuple(path for path, _ in found)
    return _samples(_Files(paths), [label for _, label in found], [path.name for path in classes], str(folder))


def _list(path: Path) -> Samples:
    """A table with the columns path and label; labels are names, or numbers from 0."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it, or without their mark
                rows = [(row["path"], row["label"]) for row in csv.DictReader(file)]
        else:
            need("index", str(path))
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path, columns=["path", "label"])
            rows = list(zip(*(table[name].to_pylist() for name in ("path", "label")), strict=True))
        lacking = [number for number, row in enumerate(rows, 1) if None in row or "" in row]
        if lacking:
            raise ValueError(f"row {lacking[0]} lacks a path or a label")
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read: {one_line(error)}", hint="it has the columns path and label"
        ) from None
    files = tuple(str(path.parent / str(file)) for file, _ in rows)
    return _samples(_Files(files), *_numbered([label for _, label in rows]), str(path))


def _numbered(labels: Sequence[Any]) -> tuple[list[int], list[str]]:
    """Labels as numbers, and the names: numbers stay if all are some, names are sorted."""
    words = [str(label).strip() for label in labels]
    if words and all(word.isdecimal() for word in words):
        return [int(word) for word in words], [str(k) for k in range(max(map(int, words)) + 1)]
    names = sorted(set(words))
    places = {name: k for k, name in enumerate(names)}
    return [places[word] for word in words], names


def _shards(paths: Sequence[Path]) -> Samples:
    """Tar files in webdataset's form. Their headers are walked once, then pictures are read at any place."""
    entries, labels = [], []
    for path in paths:
        pictures: dict[str, tarfile.TarInfo] = {}
        classes: dict[str, str] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    stem, dot, suffix = Path(member.name).name.partition(".")
                    key = f"{Path(member.name).parent}/{stem}"
                    if f"{dot}{suffix}".lower() in SUFFIXES:
                        pictures[key] = member
                    elif f"{dot}{suffix}" in LABEL_SUFFIXES:
                        content = tar.extractfile(member)
                        classes[key] = content.read().decode("utf-8").strip() if content else ""
        except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read: {error}", hint="an uncompressed tar in webdataset's form"
            ) from None
        alone = [key for key in pictures if key not in classes]
        if alone:
            raise InputError(f"{path}: {alone[0]} has no label", hint="each KEY.jpg has a KEY.cls beside it")
        entries += [(str(path), info.offset_data, info.size, info.name) for info in pictures.values()]
        labels += [classes[key] for key in pictures]
    return _samples(_Members(tuple(entries)), *_numbered(labels), str(paths[0]))


def _hugging_face(name: str, split: str) -> Samples:
    need("hf", f"hf:{name}")
    import datasets

    try:
        if (Path(name) / "dataset_dict.json").exists() or (Path(name) / "state.json").exists():
            found = datasets.load_from_disk(name)
            source = found[split] if isinstance(found, dict) else found
        else:
            source = datasets.load_dataset(name, split=split)
    except Exception as error:  # its readers, the network and its scripts raise what they like
        raise InputError(f"hf:{name}: {one_line(error)}", hint="check the name and the part") from None
    image, label = (
        next((key for key in source.features if key in wanted), None)
        for wanted in (("image", "img", "picture"), ("label", "labels", "fine_label"))
    )
    if image is None or label is None:
        raise InputError(
            f"hf:{name} has the columns {', '.join(source.features)}",
            hint="a column image and a column label are needed",
        )
    names = getattr(source.features[label], "names", None)
    labels = list(source[label])
    numbers, words = (labels, names) if names else _numbered(labels)
    return _samples(_Foreign(source, image), numbers, words, f"hf:{name}")


def _torchvision(kind: str, split: str, root: Path) -> Samples:
    import torchvision

    build = getattr(torchvision.datasets, kind, None)
    if not inspect.isclass(build):
        raise UsageError(
            f"torchvision has no set {kind!r}", hint="a class of torchvision.datasets, such as FashionMNIST"
        )
    known = inspect.signature(build).parameters
    part = {"train": split == "train"} if "train" in known else {"split": split} if "split" in known else {}
    download = {"download": not settings.hub_offline()} if "download" in known else {}
    try:
        source: Any = build(root, **part, **download)  # type: ignore[call-arg]  # each class has its own
        labels = [int(label) for label in _targets(source)]
    except Exception as error:  # a missing file, a dead network, an unknown part, a set of another task
        raise InputError(
            f"torchvision:{kind} under {root}: {one_line(error)}",
            hint="give the folder that holds it: --data DIR, or ZOO_DATA=DIR",
        ) from None
    names = getattr(source, "classes", None) or [str(k) for k in range(max(labels) + 1)]
    return _samples(_Foreign(source, 0), labels, [str(name) for name in names], f"torchvision:{kind}")


def _targets(source: Any) -> Iterable[int]:
    """Labels without decoding pictures, where the set has them at hand."""
    for attribute in ("targets", "_labels", "labels"):
        if (found := getattr(source, attribute, None)) is not None:
            return found
    return (label for _, label in source)
