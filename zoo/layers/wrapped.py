"""Reaching a network inside what distributes or compiles it."""

from typing import TypeVar

from torch import nn

__all__ = ["unwrapped"]

M = TypeVar("M", bound=nn.Module)


def unwrapped(model: nn.Module, kind: type[M]) -> M:
    """The network of a kind: `model`, or what DistributedDataParallel or torch.compile made it of.

    Raises:
        TypeError: There is another one inside.
    """
    while not isinstance(model, kind):
        children = dict(model.named_children())
        inside = children.get("module", children.get("_orig_mod"))
        if inside is None:
            raise TypeError(f"{type(model).__name__} is no {kind.__name__}")
        model = inside
    return model
