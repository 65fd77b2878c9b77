"""Embedding: what a network's head sees."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.errors import InputError, ZooError
from zoo.results.classification import Embedding
from zoo.tasks.decode import Decoded

__all__ = ["Embed"]


class Embed:
    """The features of each picture: the input of a classifier's head, the output of a network without one."""

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Embedding]:
        network: Any = model
        if hasattr(model, "forward_head"):
            features = network.forward_head(network.forward_features(x), pre_logits=True)
        else:
            features = network(x)
        vectors = features.flatten(1).float().cpu().numpy()
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
