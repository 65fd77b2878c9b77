"""What a training would be: its recipe in full, its size, its steps, and about how much memory it takes."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from zoo.data.sources import Samples
from zoo.errors import InputError
from zoo.interop.timm_names import is_timms
from zoo.registry.names import resolve
from zoo.train.course import PictureCourse, Place
from zoo.train.methods import Method, new_method
from zoo.train.networks import input_of, new_network
from zoo.train.recipe import Recipe

__all__ = ["plan"]

MOMENTS = {"sgd": 1, "lion": 1}  # tensors that an optimizer keeps beside each weight; two for the others


def plan(recipe: Recipe, data: Path | None = None) -> dict[str, Any]:
    """The resolved recipe and, for one process, parameters, steps and bytes of memory.

    Examples and steps are None where the data is not there, and so are activations unless it would be pictures; the
    total is without them then. Activations are those of one real forward pass, of two pictures scaled to the batch
    where it is pictures; what libraries take for themselves is left out.

    Args:
        recipe: What would be done.
        data: Folder that holds the set.

    Raises:
        UnknownName, UsageError: The recipe names what does not exist.
    """
    method = new_method(recipe.method, **recipe.method_args)
    cpu = torch.device("cpu")
    try:
        course = method.course(recipe, Place(data, cpu))
    except InputError:
        course = None
    network, args = new_network(
        msgspec.structs.replace(recipe, init=""), course.builder_args if course else _assumed(recipe)
    )
    network = method.prepare(network)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    schedule = recipe.schedule
    held, activations = 0, None
    if isinstance(course, PictureCourse) or (course is None and type(method).course is Method.course):
        learnt = course.learnt if course else None
        input = input_of(recipe.model)
        side = learnt.side if learnt else recipe.data.size or input.size[1]
        held = 0 if learnt is None or isinstance(learnt.data, Samples) else learnt.data.images.nbytes
        pair = torch.rand(2, input.size[0], side, side)  # batch norm needs two
        one = _kept(network, lambda: network(pair), recipe.precision) // 2
        activations = one * (schedule.batch_size // schedule.accumulate)
    elif course:
        course.begin()
        part = next(course.batches(0, 0)).parts(schedule.accumulate)[0]
        activations = _kept(network, lambda: course.loss(network, part), recipe.precision)
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimizer": weights * MOMENTS.get(recipe.optimizer.name, 2),
        "average": weights if recipe.optimizer.ema else 0,
        "pictures": held,
        "activations": activations,
    }
    return {
        **msgspec.to_builtins(recipe),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "classes": args.get("num_classes"),
        "examples": course.steps * schedule.batch_size if course else None,
        "steps_per_epoch": course.steps if course else None,
        "steps": course.steps * schedule.epochs if course else None,
        "memory_bytes": {**memory, "total": sum(size for size in memory.values() if size)},
    }


def _assumed(recipe: Recipe) -> dict[str, Any]:
    """What the data would say of the network, as far as the recipe or the card knows."""
    card_args = {"num_classes": 1000} if is_timms(recipe.model) else resolve(recipe.model).builder_args
    known = card_args | recipe.model_args
    return {"num_classes": known["num_classes"]} if "num_classes" in known else {}


def _kept(network: nn.Module, forward: Callable[[], Tensor], precision: str) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    lower = torch.autocast("cpu", torch.bfloat16) if precision != "no" else contextlib.nullcontext()
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), lower:
        answer = forward()
    del answer
    return sum(kept.values())
