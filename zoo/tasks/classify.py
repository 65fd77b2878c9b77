"""Classification: logits to the best classes."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from zoo.errors import InputError, ZooError
from zoo.results.classification import Classification
from zoo.tasks.decode import Decoded, reread

__all__ = ["Classify"]


@dataclass(frozen=True)
class Classify:
    """The best classes of each picture.

    Args:
        names: Names of the classes; those of another number are called `class 0`, `class 1`, ...
        topk: Classes a result names.
        probabilities: Whether results hold the probabilities of all classes.
    """

    names: tuple[str, ...]
    topk: int = 5
    probabilities: bool = False

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Classification]:
        chances = model(x).float().softmax(1)
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
                )
            )
        return results

    def refuse(self, picture: Decoded, error: ZooError) -> Classification:
        return Classification(picture.source, size=picture.size, note=picture.note, error=error)


def _not_finite(picture: Decoded) -> InputError:
    return InputError(f"{picture.source}: the network's answer is not finite", hint="try --dtype float32")
