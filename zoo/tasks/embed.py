"""Embedding: what a network's head sees."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.errors import InputError, ZooError
from zoo.results.classification import Embedding
from zoo.tasks.decode import Decoded

__all__ = ["Embed", "Features"]


def features(model: nn.Module, x: Tensor) -> Tensor:
    """(B, D): what a classifier's head sees, or the output of a network without one."""
    network: Any = model
    if hasattr(model, "forward_head"):
        return network.forward_head(network.forward_features(x), pre_logits=True).flatten(1)
    return network(x).flatten(1)


class Features(nn.Module):
    """The same as a network of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return features(self.model, x)


class Embed:
    """The features of each picture: the input of a classifier's head, the output of a network without one."""

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Embedding]:
        vectors = features(model, x).float().cpu().numpy()
        whole = np.isfinite(vectors).all(1)
        return [
            Embedding(picture.source, vector, picture.size, picture.note)
            if sound
            else self.refuse(
                picture, InputError(f"{picture.source}: the features are not finite", hint="try --dtype float32")
            )
            for picture, vector, sound in zip(pictures, vectors, whole, strict=True)
        ]

    def refuse(self, picture: Decoded, error: ZooError) -> Embedding:
        return Embedding(picture.source, size=picture.size, note=picture.note, error=error)
