"""Outputs of the authors' code: arrays, a sidecar that says how they were made, weights by a rule on their names."""

import json
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One pair of files; prints as its name, for test ids."""

    name: str

    def __str__(self) -> str:
        return self.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((FOLDER / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{self.name}.npz") as file:
            return dict(file)

    def authors_state(self) -> dict[str, Tensor]:
        """The authors' checkpoint under the authors' names."""
        return {name: fill(name, tuple(shape)) for name, shape, *_ in self.facts["state_dict"]}

    def input(self) -> Tensor:
        return normal(self.facts["input"]["seed"], self.facts["input"]["shape"])

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])


def golden_cases(pattern: str) -> list[Golden]:
    """Goldens whose name matches; an empty list would be a test that cannot fail."""
    names = sorted(path.stem for path in FOLDER.glob(f"{pattern}.json"))
    assert names, pattern
    return [Golden(name) for name in names]


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value that a tensor of this name has in every golden."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) <= 1:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.05 * x
    else:
        x = x / np.float64(math.sqrt(math.prod(shape[1:])))  # a float64 quotient, rounded once
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def normal(seed: int, shape: list[int] | tuple[int, ...]) -> Tensor:
    """Standard normal float32 of a seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
