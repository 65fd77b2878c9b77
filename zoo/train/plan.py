"""What a training would be: its recipe in full, its size, its steps, and about how much memory it takes."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from zoo.data.sources import Samples, open_data
from zoo.errors import InputError
from zoo.registry.names import resolve
from zoo.train.feed import picture_side
from zoo.train.methods import new_method
from zoo.train.networks import TIMM, input_of, new_network
from zoo.train.recipe import Recipe

__all__ = ["plan"]

MOMENTS = {"sgd": 1, "lion": 1}  # tensors that an optimizer keeps beside each weight; two for the others


def plan(recipe: Recipe, data: Path | None = None) -> dict[str, Any]:
    """The resolved recipe and, for one process, parameters, steps and bytes of memory.

    Pictures and steps are None where the data is not there. Activations are those of one real forward pass, scaled to
    the batch; what libraries take for themselves is left out.

    Args:
        recipe: What would be done.
        data: Folder that holds the set.

    Raises:
        UnknownName, UsageError: The recipe names what does not exist.
    """
    new_method(recipe.method, **recipe.method_args)
    input = input_of(recipe.model)
    try:
        pictures = open_data(recipe.data.name, recipe.data.split, data)
    except InputError:
        pictures = None
    side = picture_side(pictures, recipe.data.size, input) if pictures else recipe.data.size or input.size[1]
    classes = len(pictures.names) if pictures else _classes(recipe)
    network, _ = new_network(msgspec.structs.replace(recipe, init=""), classes)
    learnt = len(pictures) - recipe.data.held_out if pictures else None
    steps = learnt // recipe.schedule.batch_size if learnt is not None else None
    weights = sum(parameter.nbytes for parameter in network.parameters())
    batch = recipe.schedule.batch_size // recipe.schedule.accumulate
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimizer": weights * MOMENTS.get(recipe.optimizer.name, 2),
        "average": weights if recipe.optimizer.ema else 0,
        "pictures": 0 if pictures is None or isinstance(pictures, Samples) else pictures.images.nbytes,
        "activations": _activations(network, (input.size[0], side, side), recipe.precision) * batch,
    }
    return {
        **msgspec.to_builtins(recipe),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "classes": classes,
        "pictures": learnt,
        "steps_per_epoch": steps,
        "steps": steps * recipe.schedule.epochs if steps is not None else None,
        "memory_bytes": {**memory, "total": sum(memory.values())},
    }


def _classes(recipe: Recipe) -> int:
    """Classes where the data does not tell: the recipe's, else the card's."""
    card_args = {} if recipe.model.startswith(TIMM) else resolve(recipe.model).builder_args
    return int((card_args | recipe.model_args).get("num_classes", 1000))


def _activations(network: nn.Module, shape: tuple[int, int, int], precision: str) -> int:
    """Bytes that one picture's forward pass keeps for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    count = 2  # batch norm needs two
    lower = torch.autocast("cpu", torch.bfloat16) if precision != "no" else contextlib.nullcontext()
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), lower:
        answer = network(torch.rand(count, *shape))
    del answer
    return sum(kept.values()) // count
