"""Frozen extractors for learners: a name to a network without classifier, and the places where it can be adapted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.build import create_model
from zoo.errors import UsageError
from zoo.hub.fetch import weights_path
from zoo.interop.timm_names import is_timms, timm_input, timm_network
from zoo.registry.card import Card, Input
from zoo.registry.names import resolve

__all__ = ["Extractor", "adapted_shapes", "default_stages", "open_extractor", "without_weights"]

SMALLEST = 3  # side of the smallest map that an adapter's 3x3 convolution takes


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into features.

    Attributes:
        name: A checkpoint of ours, or "timm:" and a network of timm.
        network: Images (B, C, H, W) to (B, D).
        input: Its preprocessing.
        sha256: Of the file that its weights come from and can be had from again; None if there is none such.
    """

    name: str
    network: nn.Module
    input: Input
    sha256: str | None


def open_extractor(name: str, checkpoint: Path | None = None) -> Extractor:
    """An extractor with its weights.

    Args:
        name: A checkpoint of ours, or "timm:" and a network of timm, whose pretrained weights are taken.
        checkpoint: A safetensors file in place of those weights.

    Raises:
        UnknownName: Nothing answers to the name.
        UsageError: It is no network that gives features.
        WeightsUnavailable: Its weights cannot be had.
        IntegrityError: The file is not of this network.
    """
    if is_timms(name):
        network = timm_network(name, pretrained=True, checkpoint_path=checkpoint, num_classes=0)
        return Extractor(name, network, timm_input(name), None)
    card = resolve(name)
    network = _ours(card, pretrained=checkpoint is None, checkpoint_path=checkpoint)
    if checkpoint is None:
        weights_path(card)  # nothing without a file can be referred to
    return Extractor(card.name, network, card.input, None if checkpoint else card.weights.sha256)


def without_weights(name: str) -> nn.Module:
    """The network of an extractor, with whatever values; for a file that holds its weights.

    Raises:
        UnknownName: Nothing answers to the name.
    """
    return timm_network(name, num_classes=0) if is_timms(name) else _ours(resolve(name))


def default_stages(network: nn.Module) -> tuple[str, ...]:
    """Modules whose inputs are adapted where nobody says otherwise.

    In the EfficientNet family the fourth to sixth group of blocks, all of the paper's but the last, whose adapter would
    be five times the others together; elsewhere every stage of a feature pyramid but the first.

    Raises:
        UsageError: The network does not say what its stages are.
    """
    names = dict(network.named_modules())
    if "conv_head" in names and "blocks.5" in names:
        return ("blocks.3", "blocks.4", "blocks.5")
    info: Any = getattr(network, "feature_info", ())
    stages = tuple(stage["module"] for stage in list(info)[1:] if stage["module"] in names)
    if not stages:
        raise UsageError(
            f"{type(network).__name__} does not say which of its stages can be adapted",
            hint="take a convolutional network, such as lite0_extractor or timm:resnet18",
        )
    return stages


@torch.no_grad()
def adapted_shapes(network: nn.Module, stages: Sequence[str], size: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """(C, H, W) of each adapted stage's input, and (D,) of the features.

    Args:
        network: The extractor.
        stages: Names of its modules, in the order they run.
        size: (C, H, W) of the pictures.

    Raises:
        UsageError: A stage does not take maps of at least 3x3 in this layout, or the features are none.
    """
    seen: list[tuple[int, ...]] = []
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, args: seen.append(tuple(args[0].shape[1:]))
        )
        for name in stages
    ]
    try:
        features: Tensor = network.eval()(torch.zeros(1, *size))
    finally:
        for hook in hooks:
            hook.remove()
    pixels = f"{size[2]}x{size[1]}"
    if features.ndim != 2:
        raise UsageError(
            f"{type(network).__name__} gives {tuple(features.shape)}", hint="one vector a picture is needed"
        )
    for name, shape in zip(stages, seen, strict=True):
        if len(shape) != 3 or _channels_last(network, name, shape):
            raise UsageError(f"{name} of {type(network).__name__} takes {shape}", hint="take a convolutional network")
        if min(shape[1:]) < SMALLEST:
            raise UsageError(
                f"pictures of {pixels} leave maps of {shape[2]}x{shape[1]} before {name}; 3x3 is the least",
                hint="larger pictures: --size",
            )
    return [*seen, tuple(features.shape[1:])]


def _channels_last(network: nn.Module, stage: str, shape: tuple[int, ...]) -> bool:
    """Whether a map's channels stand where a feature pyramid does not have them."""
    known = {info["num_chs"] for info in getattr(network, "feature_info", ())}
    return bool(known) and shape[0] not in known and shape[2] in known


def _ours(card: Card, **weights: Any) -> nn.Module:
    if card.task not in ("classify", "embed"):
        raise UsageError(f"{card.name} is made to {card.task}", hint="zoo list --task embed; or timm:NAME")
    return create_model(card.name, num_classes=0, **weights)
