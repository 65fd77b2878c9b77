"""The networks of a training: the one that learns, and the one that teaches."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.data.transforms import standardise
from zoo.errors import UsageError
from zoo.interop.timm_names import is_timms, timm_input, timm_network
from zoo.registry.card import Input
from zoo.registry.names import resolve
from zoo.train.methods import Method
from zoo.train.recipe import Distill, Recipe

__all__ = ["Teacher", "input_of", "new_network", "normalise"]


def new_network(recipe: Recipe, args: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a recipe with its first weights, and the arguments it was built with.

    Args:
        recipe: Whose.
        args: What the data says about the network; the recipe's own arguments come before it.

    Raises:
        UnknownName: No such network.
        UsageError: Arguments that it does not take, or it cannot recompute activations.
        WeightsUnavailable, IntegrityError: `init` cannot be had, or is of another network.
    """
    args = {**args, **recipe.model_args}
    network = _build(recipe.model, recipe.init, args)
    if recipe.checkpointing:
        try:
            network.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's convention
        except (AttributeError, AssertionError):
            raise UsageError(f"{recipe.model} cannot recompute activations", hint="leave checkpointing out") from None
    return network, args


def input_of(model: str) -> Input:
    """Preprocessing of a network of ours or of timm's."""
    return timm_input(model) if is_timms(model) else resolve(model).input


def normalise(images: Tensor, input: Input, channels_last: bool) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) float32 with a network's mean and deviation."""
    x = standardise(images, input.mean, input.std)
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class Teacher:
    """A trained network whose answers count beside the labels.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531; hard labels as in Touvron et al.,
    arXiv:2012.12877, section 4.

    Args:
        wanted: Which, and how much it counts.
        method: Whose loss it joins.
        classes: Of the pupil.
        pupil: The pupil's preprocessing; pictures are brought from it to the teacher's.
        device: Where both are.

    Raises:
        UsageError: It knows another number of classes.
        UnknownName, WeightsUnavailable, IntegrityError: It cannot be had.
    """

    def __init__(self, wanted: Distill, method: Method, classes: int, pupil: Input, device: torch.device) -> None:
        model = _build(wanted.teacher, wanted.checkpoint or "pretrained", {})
        if getattr(model, "num_classes", classes) != classes:
            raise UsageError(
                f"{wanted.teacher} knows {model.num_classes} classes, the data has {classes}",
                hint="train a teacher on this data first, and name its file in distill.checkpoint",
            )
        self.wanted = wanted
        self.method = method
        self.model = model.to(device).eval().requires_grad_(False)
        own = input_of(wanted.teacher)
        mean, std, theirs, spread = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (own.mean, own.std, pupil.mean, pupil.std)
        )
        self.factor, self.offset = spread / std, (theirs - mean) / std
        self.side = own.size[1:] if own.fixed_size else None

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The method's loss and the distance to the teacher's answers, weighted."""
        answers: list[Tensor] = []

        def listened(x: Tensor) -> Tensor:
            answers.append(model(x))
            return answers[-1]

        own = self.method.loss(listened, images, labels)  # type: ignore[arg-type]  # methods only call it
        with torch.no_grad():
            theirs = images * self.factor + self.offset
            if self.side and self.side != images.shape[2:]:
                theirs = F.interpolate(theirs, self.side, mode="bicubic", antialias=True)
            told = self.model(theirs).float()
        said = answers[-1].float()
        if self.wanted.kind == "hard":
            lesson = F.cross_entropy(said, told.argmax(1))
        else:
            softness = self.wanted.temperature
            one, two = (F.log_softmax(logits / softness, 1) for logits in (said, told))
            lesson = F.kl_div(one, two, log_target=True, reduction="batchmean") * softness**2
        return (1 - self.wanted.weight) * own + self.wanted.weight * lesson


def _build(model: str, weights: str, args: dict[str, Any]) -> nn.Module:
    """A network of ours or of timm's; `weights` is empty, "pretrained", a file or a checkpoint of ours."""
    try:
        file = Path(weights) if weights.endswith(".safetensors") else None
        if is_timms(model):
            return timm_network(model, pretrained=bool(weights), checkpoint_path=file, **args)
        if not weights or weights == "pretrained":
            return zoo.create_model(model, pretrained=bool(weights), **args)
        if file:
            return zoo.create_model(model, checkpoint_path=file, **args)
        if resolve(weights).architecture != resolve(model).architecture:
            raise UsageError(
                f"{weights} is another network than {model}", hint="init names a checkpoint of the same one"
            )
        return zoo.create_model(weights, pretrained=True, **args)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{model} with {args}: {error}", hint="mend model_args") from None
