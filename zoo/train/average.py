"""An average of the weights over the steps, kept beside them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average", "local"]


class Average:
    """Exponential moving average of parameters and buffers, of this process's shards where they are sharded.

    timm's `ModelEmaV3` copies the network, which one sharded by FSDP does not allow; the decay grows as there:
    1 - (1 + step)^(-2/3), up to `decay`.

    Args:
        model: Network.
        decay: Highest decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {key: local(value).clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after a step, counted from 1."""
        decay = min(self.decay, 1 - step ** (-2 / 3))
        ours, theirs = [], []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                ours.append(self.values[key])
                theirs.append(local(value))
            else:
                self.values[key].copy_(local(value))
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The average in the network's place."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        if reshard := getattr(model, "reshard", None):
            reshard()  # FSDP keeps what it gathered for the last forward pass, and would run on it again
        for key, value in model.state_dict().items():
            now = local(value).clone()
            local(value).copy_(self.values[key])
            self.values[key].copy_(now)


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor itself."""
    return value.to_local().detach() if hasattr(value, "to_local") else value.detach()  # without importing DTensor
