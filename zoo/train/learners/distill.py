"""One network that learns every task whole and is held to what its older self knew.

Our formulation of the method described in the abstract of Chen et al., "Adaptively Integrated Knowledge Distillation
and Prediction Uncertainty for Continual Learning", arXiv:2301.07316; the paper's body could not be read.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.datasets import augment
from zoo.errors import UsageError
from zoo.losses.distillation import (
    Integration,
    cut_old,
    distillation_weights,
    integrated_distances,
    level_distances,
    logit_distances,
    new_class_weights,
    uncertainty,
)
from zoo.models.distilled import Distilled, default_levels
from zoo.registry.card import Input
from zoo.tasks.extractor import Extractor
from zoo.train.feed import seed_everything
from zoo.train.learners import NewTask
from zoo.train.taskwise import TaskState, batches_of, stepped

__all__ = ["Learner", "Pupil"]

DROPS = (0.5, 0.75)  # shares of the epochs after which the rate falls to a tenth: 80 and 120 of 160
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
SHIFT = 8  # pictures are shifted by up to an eighth of their side: 4 of CIFAR's 32 pixels
CUT_SHARE = 0.5  # of the old pictures that get a piece of another one
INIT, ORDER, STEP = 21, 22, 23  # streams of chance beside the seed's own


@dataclass(frozen=True)
class Learner:
    """Distillation from the network as it was before the task.

    Args:
        epochs: Of a task, where the settings do not say.
        rate: Highest learning rate; 0.1 for a network that starts from random weights.
        kd: What the distance of the logits counts.
        maps: What the distance of the levels' maps counts.
        temperature: Of the logits.
        integrate: Whether a level is held to a mixture of all old levels ("attention"), to its own ("same_level"), or
            to none ("off").
        unsure: Whether the old network's uncertainty weighs new pictures ("new"), what is kept ("old"), "both", or
            nothing ("off"); "learned" weighs what is kept by a learnt variance, which was worse when tried.
        cutmix: Whether old pictures get pieces of others; for photographs, not where a part changes the class.
        align: Whether the new classes' weights are brought to the length of the old ones' after a task.
        width: Of the attention's queries and keys.
    """

    epochs: int = 20
    rate: float = 0.01
    kd: float = 0.3
    maps: float = 1.0
    temperature: float = 2.0
    integrate: Literal["attention", "same_level", "off"] = "attention"
    unsure: Literal["both", "new", "old", "learned", "off"] = "both"
    cutmix: bool = True
    align: bool = True
    width: int = 64

    def arguments(self, extractor: Extractor, input: Input) -> dict[str, Any]:
        levels = default_levels(extractor.network)
        probe = Distilled(extractor.network, levels=levels)
        probe.head = nn.Identity()  # type: ignore[assignment]  # features are what is looked at
        with torch.no_grad():
            seen, features = probe.eval().observe(torch.zeros(1, *input.size))
        if features.ndim != 2 or any(level.ndim != 4 for level in seen):
            raise UsageError(
                f"{extractor.name} gives no maps that could be compared", hint="take a convolutional network"
            )
        channels = [level.shape[1] for level in seen]
        return {"levels": list(levels), "channels": channels, "num_features": features.shape[1]}

    def plan(self, network: nn.Module, task: NewTask) -> list[tuple[str, str]]:
        distilled = cast(Distilled, network)
        count = sum(parameter.numel() for parameter in distilled.parameters())
        epochs, pictures = task.settings.epochs or self.epochs, len(task.images) + len(task.kept_images)
        held = f"{', '.join(distilled.levels)} and the logits" if distilled.sizes else "nothing, it is the first task"
        return [
            ("learns", f"all {count:,} parameters, {epochs} epochs over {pictures} pictures; cannot be undone"),
            ("held to", held),
        ]

    def learn(self, network: nn.Module, task: NewTask) -> None:
        distilled = cast(Distilled, network)
        old = copy.deepcopy(distilled).to(task.device).eval().requires_grad_(False) if distilled.sizes else None
        seed_everything(task.settings.seed, INIT, len(distilled.sizes))
        distilled.add_task(task.classes)
        pupil = Pupil(self, distilled, old).to(task.device)
        optimizer = torch.optim.SGD(_learnt(pupil), self.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        images, labels = torch.cat([task.images, task.kept_images]), torch.cat([task.labels, task.kept_labels])
        epochs = task.settings.epochs or self.epochs
        state = TaskState(task, pupil, optimizer, [asdict(self), distilled.sizes])
        for epoch in range(state.load(), epochs):
            optimizer.param_groups[0]["lr"] = stepped(self.rate, DROPS, epoch, epochs)
            pupil.train()
            total = 0.0
            for step, (rows, chance) in enumerate(_batches(labels, task, len(distilled.sizes), epoch)):
                seed_everything(task.settings.seed, STEP, len(distilled.sizes), epoch, step)
                shown = _shifted(images[rows], chance)
                loss = pupil(task.prepared(shown), labels[rows].to(task.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            state.save(epoch + 1)
            share = (epoch + 1) / epochs
            task.report(f"distill: epoch {epoch + 1}/{epochs}, loss {total / len(labels):.4f}", share)
        if old is not None and self.align:
            distilled.align()
        distilled.eval()


class Pupil(nn.Module):
    """The learning network beside its older self, with what is learnt about the two and thrown away after the task.

    Args:
        how: Switches and weights of the loss.
        network: What learns.
        old: What it was; None before the first task.
    """

    def __init__(self, how: Learner, network: Distilled, old: Distilled | None) -> None:
        super().__init__()
        self.how, self.network = how, network
        self.past = (old,)  # in a tuple, so that it is no part of the state that is saved
        self.integration = Integration(network.channels, how.width)
        self.variance = nn.Linear(network.channels[-1], 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of normalised (B, C, H, W) pictures with their (B,) classes."""
        (old,) = self.past
        if old is None:
            return F.cross_entropy(self.network(x), labels)
        known = sum(old.sizes)
        partner, own = torch.arange(len(x), device=x.device), torch.ones(len(x), device=x.device)
        if self.how.cutmix:
            x, partner, own = _cut(x, labels < known)
        with torch.no_grad():
            old_levels, old_logits = old.observe(x)
            unsure = uncertainty(old_logits)
        levels, logits = self.network.observe(x)
        entropy = own * F.cross_entropy(logits, labels, reduction="none")
        entropy = entropy + (1 - own) * F.cross_entropy(logits, labels[partner], reduction="none")
        if self.how.unsure in ("both", "new"):
            entropy = new_class_weights(unsure, labels, known) * entropy
        distance = self.how.kd * logit_distances(old_logits, logits, self.how.temperature)
        if self.how.integrate != "off":
            distance = distance + self.how.maps * self._maps(levels, old_levels).mean(1)
        if self.how.unsure in ("both", "old"):
            distance = distillation_weights(unsure) * distance
        elif self.how.unsure == "learned":  # beyond these bounds the variance runs away and nothing new is learned
            spread = self.variance(levels[-1].mean((2, 3)))[:, 0].clamp(-1, 1)
            distance = (-spread).exp() * distance + spread
        return entropy.mean() + distance.mean()

    def _maps(self, levels: list[Tensor], old_levels: list[Tensor]) -> Tensor:
        if self.how.integrate == "same_level":
            return level_distances(levels, old_levels)
        return integrated_distances(levels, old_levels, self.integration(levels, old_levels))


def _learnt(pupil: Pupil) -> list[nn.Parameter]:
    """What the optimizer moves: only what the loss reaches, so that every step has all gradients."""
    (old,), how = pupil.past, pupil.how
    parameters = [*pupil.network.parameters()]
    if old is not None and how.integrate == "attention":
        parameters += pupil.integration.parameters()
    if old is not None and how.unsure == "learned":
        parameters += pupil.variance.parameters()
    return parameters


def _cut(x: Tensor, is_old: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some of the old pictures with a piece of another: pictures, partners, and the share that is their own."""
    count, device = len(x), x.device
    chosen = is_old & (torch.rand(count, device=device) < CUT_SHARE)
    partner = torch.randint(count, (count,), device=device)
    area = 0.5 * torch.rand(count, device=device)  # Beta(1, 1) is uniform
    row, column = (torch.randint(side, (count,), device=device) for side in x.shape[2:])
    mixed, own = cut_old(x, chosen, partner, area, row, column)
    return mixed, partner, own


def _shifted(images: Tensor, chance: np.random.Generator) -> Tensor:
    """Pictures mirrored at random and, where they are square, shifted."""
    height, width = images.shape[1:3]
    if height == width:
        return augment(images, height, height // SHIFT, True, chance)
    mirrored = torch.from_numpy(chance.random(len(images)) < 0.5)
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def _batches(labels: Tensor, task: NewTask, tasks: int, epoch: int) -> Iterator[tuple[Tensor, np.random.Generator]]:
    """Rows of an epoch's batches, new pictures and memory as they come, and each batch's own chance."""
    seed = task.settings.seed
    for step, rows in enumerate(batches_of(labels, task.settings, np.random.default_rng((seed, ORDER, tasks, epoch)))):
        yield rows, np.random.default_rng((seed, ORDER, tasks, epoch, step))
