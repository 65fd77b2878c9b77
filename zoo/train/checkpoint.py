"""The state of a run in one safetensors file, written whole or not at all.

Tensors: `model.<key>`, `optimizer.<parameter>.<key>`, `average.<key>`. Numbers and text: JSON under the metadata key
`zoo`. There is no state of chance: every step draws from its own number. Sharded tensors are gathered, so that a run
goes on with another number of processes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zoo.errors import IntegrityError, ZooError
from zoo.hub.checkpoint import write_whole
from zoo.train.average import Average, local

__all__ = ["load_run", "save_run", "whole_state"]


def save_run(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    facts: Mapping[str, Any],
    *,
    writes: bool = True,
) -> None:
    """Write model, optimizer, average and `facts` (plain JSON types).

    Args:
        path: File.
        model: Network.
        optimizer: Its optimizer.
        average: The average of its weights, if one is kept.
        facts: What else the run needs to go on.
        writes: Whether this process writes; all must call, for shards are gathered.

    Raises:
        ZooError: A weight is not finite; the file stays as it was.
        InputError: The file cannot be written; it stays as it was.
    """
    tensors = {f"model.{key}": value for key, value in whole_state(model).items()}
    if average:
        with average.applied(model):
            tensors |= {f"average.{key}": value.clone() for key, value in whole_state(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": _whole(value) for key, value in state.items() if value is not None}
    if not writes:
        return
    sick = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if sick:
        raise ZooError(
            f"{sick[0]} and {len(sick) - 1} other tensors are not finite" if sick[1:] else f"{sick[0]} is not finite",
            hint=f"lower optimizer.lr, or clip with optimizer.clip_norm; the last good state stays in {path}",
        )
    write_whole(path, save(tensors, metadata={"zoo": json.dumps(facts)}))


def load_run(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None
) -> dict[str, Any]:
    """Put a run's state back in place; returns its facts.

    Raises:
        IntegrityError: The file is cut or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["zoo"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        _fill(model, _under("model.", tensors))
        if average:
            with average.applied(model):
                _fill(model, _under("average.", tensors))
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError) as error:
        raise IntegrityError(f"{path} is no state of this run: {error}", hint="remove it to start over") from None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # fused optimizers walk through memory: moments lie in it as parameters do
            value = _placed(value, parameter)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return facts


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """A network's state on the CPU, gathered from its shards; all processes must call."""
    return {key: _whole(value) for key, value in model.state_dict().items()}


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu().contiguous()


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a whole state into a network, sharded or not.

    Raises:
        KeyError, RuntimeError: It is another network's.
    """
    state = model.state_dict()
    if state.keys() != tensors.keys():
        raise KeyError(f"its tensors are not the network's: {', '.join(sorted(state.keys() ^ tensors.keys())[:3])}")
    with torch.no_grad():
        for key, value in state.items():
            if value.shape != tensors[key].shape:
                raise RuntimeError(f"{key} is {tuple(tensors[key].shape)} for {tuple(value.shape)}")
            local(value).copy_(local(_placed(tensors[key], value)))


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A tensor laid out in memory, and over processes, as another one."""
    if hasattr(like, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(like, DTensor)
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
