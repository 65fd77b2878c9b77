"""The state of a run in one safetensors file, written whole or not at all.

Tensors: `model.<key>`, `optimizer.<parameter>.<key>`, `rng`. Numbers and text: JSON under the metadata key `zoo`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zoo.errors import IntegrityError
from zoo.hub.checkpoint import write_whole

__all__ = ["load_run", "save_run"]


def save_run(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]) -> None:
    """Write model, optimizer, torch's random state and `facts` (plain JSON types)."""
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in state.items() if value is not None}
    tensors["rng"] = torch.get_rng_state()
    write_whole(path, save(tensors, metadata={"zoo": json.dumps(facts)}))


def load_run(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a run's state back in place; returns its facts.

    Raises:
        IntegrityError: The file is cut or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["zoo"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        model.load_state_dict(_under("model.", tensors))
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError) as error:
        raise IntegrityError(f"{path} is no state of this run: {error}", hint="remove it to start over") from None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # fused optimizers walk through memory: moments lie in it as parameters do
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["rng"])
    return facts


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
