"""Classification: logits to the best classes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data.transforms import Preprocess
from zoo.errors import InputError, UsageError, ZooError
from zoo.layers.explain import explained
from zoo.results.classification import Classification, Explanation
from zoo.tasks.decode import Decoded, reread

__all__ = ["Classify"]


@dataclass(frozen=True)
class Classify:
    """The best classes of each picture.

    Args:
        names: Names of the classes; those of another number are called `class 0`, `class 1`, ...
        topk: Classes a result names.
        probabilities: Whether results hold the probabilities of all classes.
        view: Set, results hold where the best class was found; it says what of a picture the network sees.
    """

    names: tuple[str, ...]
    topk: int = 5
    probabilities: bool = False
    view: Preprocess | None = None

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Classification]:
        logits, heats = self._explained(model, x) if self.view else (model(x), None)
        chances = logits.float().softmax(1)
        best, indices = chances.topk(min(self.topk, chances.shape[1]))
        scores, numbers = best.cpu().numpy(), indices.cpu().numpy()
        known = self.names if len(self.names) == chances.shape[1] else [f"class {i}" for i in range(chances.shape[1])]
        all_of_them = chances.cpu().numpy() if self.probabilities else None
        results = []
        for i, picture in enumerate(pictures):
            if not scores[i, 0] >= 0:  # NaN
                results.append(self.refuse(picture, _not_finite(picture)))
                continue
            results.append(
                Classification(
                    picture.source,
                    tuple(known[k] for k in numbers[i].tolist()),
                    scores[i],
                    numbers[i],
                    picture.size,
                    all_of_them[i] if all_of_them is not None else None,
                    picture.note,
                    picture=partial(reread, picture.item),
                    explanation=self._explanation(heats[i], picture) if heats is not None else None,
                )
            )
        return results

    def _explained(self, model: nn.Module, x: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
        try:
            logits, heats = explained(model, x)
        except ValueError as error:
            raise UsageError(f"no explanation: {error}", hint="leave --explain out") from None
        return logits, heats.cpu().numpy()

    def _explanation(self, heat: NDArray[np.float32], picture: Decoded) -> Explanation | None:
        if self.view is None or picture.size is None:
            return None
        return Explanation(heat, self.view.seen(picture.size))

    def refuse(self, picture: Decoded, error: ZooError) -> Classification:
        return Classification(picture.source, size=picture.size, note=picture.note, error=error)


def _not_finite(picture: Decoded) -> InputError:
    return InputError(f"{picture.source}: the network's answer is not finite", hint="try --dtype float32")
