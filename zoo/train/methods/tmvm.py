"""TMVM's training: pairs told apart in both directions, and a video's prototypes kept apart.

C. Lin et al., "Text-Adaptive Multiple Visual Prototype Matching for Video-Text Retrieval", arXiv:2209.13307. The form
of the variance term is ours.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from zoo.losses.tmvm import contrast, prototype_variance
from zoo.models.tmvm import Compared
from zoo.train import methods
from zoo.train.course import Course, Place
from zoo.train.recipe import Recipe
from zoo.train.retrieval import ClipCourse

__all__ = ["Method"]


@dataclass(frozen=True)
class Method(methods.Method):
    """Contrast over the batch and a hinge on the spread of the prototypes.

    Args:
        variance: Weight of the hinge.
        gamma: Spread that is enough.
        variance_on: "vectors" spreads the prototypes, "masks" what they look at.
        reduction: "sum" of the two directions of the contrast, or their "mean".
        freeze: Beginnings of the names of parameters that stay as they are.
        slow: Beginnings of the names of parameters that learn at `slow_rate` times the rate.
        slow_rate: For the pretrained part of a network with a new head.
    """

    variance: float = 1.0
    gamma: float = 0.5
    variance_on: Literal["vectors", "masks"] = "vectors"
    reduction: Literal["sum", "mean"] = "sum"
    freeze: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    slow_rate: float = 1.0

    def course(self, recipe: Recipe, place: Place) -> Course:
        return ClipCourse(recipe, self, place)

    def groups(self, model: nn.Module) -> nn.Module | list[dict[str, Any]]:
        for name, parameter in model.named_parameters():
            if name.startswith(tuple(self.freeze)):
                parameter.requires_grad_(False)
        if not self.slow:
            return model
        named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        slow = [value for name, value in named if name.startswith(tuple(self.slow))]
        fast = [value for name, value in named if not name.startswith(tuple(self.slow))]
        return [{"params": slow, "lr_scale": self.slow_rate}, {"params": fast, "lr_scale": 1.0}]

    def retrieval_loss(self, found: Compared, scale: Tensor | float) -> Tensor:
        loss = contrast(found.similarity, scale, reduction=self.reduction)
        if not self.variance or found.vectors.shape[1] == 1:
            return loss
        if self.variance_on == "masks":
            values = found.masks.shape[1] * found.masks.transpose(1, 2)
        else:
            values = found.vectors.shape[2] ** 0.5 * found.vectors
        return loss + self.variance * prototype_variance(values, self.gamma)
