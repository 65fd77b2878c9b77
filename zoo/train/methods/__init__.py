"""What a paper adds to the plain training loop: one module a paper, each with a `Method`."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.course import Course, Place
    from zoo.train.recipe import Recipe

__all__ = ["Method", "method_names", "new_method"]


class Method:
    """The points at which a paper differs from plain supervised training; what it does not say is as here."""

    def course(self, recipe: "Recipe", place: "Place") -> "Course":
        """What is learnt and how it is judged."""
        from zoo.train.course import PictureCourse

        return PictureCourse(recipe, self, place)

    def conduct(
        self,
        recipe: "Recipe",
        out: "Path",
        train: "Callable[[Recipe, Path], Path]",
        place: "Place",
        say: "Callable[[str], None]",
    ) -> "Path":
        """All that a recipe asks for, by default one training; returns the finished checkpoint's file.

        Args:
            recipe: What to do.
            out: Folder of the run.
            train: Trains by a recipe in a folder, or goes on there; returns the finished checkpoint's file.
            place: Where to do what is done besides.
            say: Tells the user something, a line at a time.
        """
        return train(recipe, out)

    def prepare(self, model: nn.Module) -> nn.Module:
        """What is trained and kept in checkpoints: the network, or a module that holds it beside an average of it."""
        return model

    def groups(self, model: nn.Module) -> nn.Module | list[dict[str, Any]]:
        """What the optimizer moves: the model, or groups of "params" with an "lr_scale" and a "weight_decay"."""
        return model

    def start(self, model: nn.Module) -> None:
        """Change the first weights of a training that begins; one that is resumed passes this over."""

    def start_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        """Move schedules of the method to an epoch, counted from 0."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch: (B, C, H, W) images, (B,) labels or (B, K) shares. A course of its own may not ask."""
        raise NotImplementedError

    def after_step(self, model: nn.Module, step: int) -> None:
        """Follow the weights after step number `step` of the training, counted from 1."""

    def report(self, model: nn.Module) -> dict[str, float]:
        """Figures to log at the end of an epoch, while the last gradients are still there."""
        return {}

    def export(self, model: nn.Module) -> tuple[dict[str, Tensor], str]:
        """Tensors of the finished checkpoint, out of what `prepare` gave, and the name of their layout."""
        return {key: value.contiguous() for key, value in model.state_dict().items()}, "float"


def method_names() -> list[str]:
    """Names of the methods that recipes may ask for."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def new_method(name: str, **args: Any) -> Method:
    """The method of that name.

    Raises:
        UnknownName: No such method.
        UsageError: Arguments that it does not take.
    """
    if name not in method_names():
        raise UnknownName(f"no method {name!r}", hint=f"one of {', '.join(method_names())}")
    kind: type[Method] = importlib.import_module(f"{__name__}.{name}").Method
    try:
        return kind(**args)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"method_args of {name}: {error}", hint=f"it takes {', '.join(kind.__annotations__) or 'none'}"
        ) from None
