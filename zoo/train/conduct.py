"""What `zoo train` does: one training, or what a method makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.tasks.device import pick_device
from zoo.train.course import Place
from zoo.train.loop import train
from zoo.train.methods import new_method
from zoo.train.recipe import Recipe

__all__ = ["conduct"]


def conduct(
    recipe: Recipe,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Path:
    """Do all that a recipe asks for, or go on with it; returns the finished checkpoint's file.

    Args:
        recipe: What to do.
        out: Folder of the run.
        data: Folder that holds the set.
        device: As of `train`.
        workers: As of `train`.
        say: Tells the user something, a line at a time.
        **options: Further ones of `train`.

    Raises:
        ZooError: As of `train`, and what the method adds.
    """
    method = new_method(recipe.method, **recipe.method_args)

    def one(recipe: Recipe, out: Path) -> Path:
        return train(recipe, out, data=data, device=device, workers=workers, **options)

    return method.conduct(recipe, out, one, Place(data, pick_device(device), workers=workers), say)
