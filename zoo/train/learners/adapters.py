"""Adapters and a head a task on a frozen extractor: ACL's two stages, on kept features.

Zhang et al., "Adapter Learning in Pretrained Feature Extractor for Continual Learning of Diseases", MICCAI 2023,
arXiv:2304.09042. Pictures are mirrored at random and not cropped, so what the frozen parts make of a picture is
computed twice, once a side, and then kept: the same loss, another random sequence than drawing pictures anew.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.exemplars import herding
from zoo.models.acl import ACL, heads_loss, newest_loss
from zoo.registry.card import Input
from zoo.tasks.extractor import Extractor, adapted_shapes, default_stages
from zoo.train.feed import seed_everything
from zoo.train.learners import NewTask, Settings
from zoo.train.taskwise import TaskState, batches_of, stepped

__all__ = ["Learner", "balanced_set", "kept_features", "learn_adapters", "learn_heads"]

EPOCHS, HEAD_EPOCHS = 20, 50
DROPS, HEAD_DROPS = (0.35, 0.65, 0.85), (0.3, 0.7)  # shares of the epochs after which the rate falls to a tenth
RATE, MOMENTUM, WEIGHT_DECAY, HEAD_RATE = 0.01, 0.9, 5e-4, 1e-3
ROOM = 2_000_000_000  # bytes of the shared stages' output that are kept; beyond, it is computed again
INIT, STAGE_1, STAGE_2 = 11, 12, 13  # streams of chance beside the seed's own
CHUNK = 16  # pictures computed at once: many tasks' maps of more leave the caches


class Learner:
    """ACL."""

    def arguments(self, extractor: Extractor, input: Input) -> dict[str, Any]:
        stages = default_stages(extractor.network)
        *maps, (num_features,) = adapted_shapes(extractor.network, stages, input.size)
        return {"stages": list(stages), "channels": [shape[0] for shape in maps], "num_features": num_features}

    def plan(self, network: nn.Module, task: NewTask) -> list[tuple[str, str]]:
        acl, settings = cast(ACL, network), task.settings
        adapters = sum(18 * c * c + 6 * c + 1 for c in acl.channels)
        head = (task.classes + 1) * (acl.num_features + 1)
        frozen = sum(parameter.numel() for parameter in acl.backbone.parameters())
        shape = acl.before_adapters(task.prepared(task.images[:1])).shape
        pictures = len(task.images) + len(task.kept_images)
        size = 2 * pictures * 4 * shape.numel()
        held = f"{size / 1e6:.0f} MB kept in memory" if size <= ROOM else "computed anew each time: too many to keep"
        heads = len(acl.heads) + 1
        return [
            (
                "adapters",
                f"{adapters:,} parameters before {', '.join(acl.stages)}, {100 * adapters / frozen:.1f}% of it",
            ),
            ("head", f"{head:,} parameters"),
            ("stage 1", f"{settings.epochs or EPOCHS} epochs over {pictures} pictures and their mirrors, {held}"),
            ("stage 2", f"all {heads} heads for {HEAD_EPOCHS} epochs" if heads > 1 else "none, it is the first task"),
        ]

    def learn(self, network: nn.Module, task: NewTask) -> None:
        acl = cast(ACL, network)
        seed_everything(task.settings.seed, INIT, len(acl.heads))
        if len(acl.heads):
            acl.keep_heads()
        acl.add_task(task.classes)
        auxiliary = nn.Linear(acl.num_features, task.classes + 1)
        acl.to(memory_format=torch.channels_last).to(task.device)
        auxiliary.to(task.device)
        learn_adapters(acl, auxiliary, task)
        if len(acl.heads) == 1:
            acl.heads[0].load_state_dict(auxiliary.state_dict())
        else:
            fast = acl.optimized(task.prepared(task.images[:1])) if task.device.type == "cpu" else acl
            images, labels = balanced_set(fast, task)
            learn_heads(acl, kept_features(fast, images, task), labels, task)
        acl.eval()


def learn_adapters(acl: ACL, auxiliary: nn.Linear, task: NewTask) -> None:
    """Stage 1: the newest adapters and an auxiliary head, on new pictures and the memory, which counts as "others".

    Args:
        acl: The network, with the new task's fresh adapters.
        auxiliary: Their head, thrown away afterwards except by the first task.
        task: What to learn.
    """
    images = torch.cat([task.images, task.kept_images])
    labels = torch.cat([task.labels, task.kept_labels]).to(task.device)
    shared = _Shared(acl, images, task)
    learning = nn.ModuleDict({"adapters": acl.adapters[-1], "auxiliary": auxiliary})
    optimizer = torch.optim.SGD(learning.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    epochs = task.settings.epochs or EPOCHS
    progress = TaskState(task, learning, optimizer, [acl.task_sizes])
    acl.train()
    for epoch in range(progress.load(), epochs):
        optimizer.param_groups[0]["lr"] = stepped(RATE, DROPS, epoch, epochs)
        total = torch.zeros((), device=task.device)
        for rows, mirrored in _batches(labels.cpu(), task.settings, STAGE_1, len(acl.heads), epoch):
            logits = auxiliary(shared.features(rows, mirrored))
            loss = newest_loss(logits, labels[rows], task.first)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            total += loss.detach() * len(rows)
        progress.save(epoch + 1)
        task.report(
            f"adapters: epoch {epoch + 1}/{epochs}, loss {total.item() / len(labels):.4f}", (epoch + 1) / epochs
        )
    acl.eval()


def learn_heads(acl: ACL, features: Tensor, labels: Tensor, task: NewTask) -> None:
    """Stage 2: all heads, on features of a balanced set.

    Args:
        acl: The network; its heads are trained from where they stand.
        features: (2, N, T, D) of the pictures and of their mirrors.
        labels: (N,) classes.
        task: Whose settings and seed are used.
    """
    acl.eval()
    optimizer = torch.optim.Adam(acl.heads.parameters(), lr=HEAD_RATE)
    labels = labels.to(features.device)
    for epoch in range(HEAD_EPOCHS):
        optimizer.param_groups[0]["lr"] = stepped(HEAD_RATE, HEAD_DROPS, epoch, HEAD_EPOCHS)
        even = Settings(batch_size=task.settings.batch_size, seed=task.settings.seed)
        for rows, mirrored in _batches(labels.cpu(), even, STAGE_2, len(acl.heads), epoch):
            loss = heads_loss(acl.heads_of(features[mirrored.long(), rows]), labels[rows], acl.task_sizes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    task.report(f"heads: {HEAD_EPOCHS} epochs, loss {loss.item():.4f}", 1.0)


def balanced_set(acl: ACL, task: NewTask) -> tuple[Tensor, Tensor]:
    """(N, H, W, C) pictures and (N,) classes: what is kept, and as much of each new class, chosen by herding."""
    chosen = []
    for label in range(task.first, task.first + task.classes):
        own = (task.labels == label).nonzero().flatten()
        picked = herding(_computed(acl.describe, task.images[own], task), task.quota)
        chosen.append(own[picked.cpu()])
    rows = torch.cat(chosen)
    return torch.cat([task.kept_images, task.images[rows]]), torch.cat([task.kept_labels, task.labels[rows]])


def kept_features(acl: ACL, images: Tensor, task: NewTask) -> Tensor:
    """(2, N, T, D) features of pictures and of their mirrors: what the heads are trained on, computed once."""
    return torch.stack([_computed(acl.features, images, task, is_mirrored=side) for side in (False, True)])


class _Shared:
    """What the frozen stages before the first adapter give for pictures and their mirrors."""

    def __init__(self, acl: ACL, images: Tensor, task: NewTask) -> None:
        self.acl, self.images, self.task = acl, images, task
        self.like = task.prepared(images[:1])
        with torch.no_grad():
            shape = acl.before_adapters(self.like).shape
        self.kept: Tensor | None = None
        if 2 * len(images) * 4 * shape.numel() <= ROOM:
            both = [_computed(acl.before_adapters, images, task, is_mirrored=side) for side in (False, True)]
            self.kept = torch.stack(both)  # (2, N, C, H, W)

    def features(self, rows: Tensor, mirrored: Tensor) -> Tensor:
        """(B, D) features through the newest adapters, with gradients."""
        if self.kept is not None:
            return self.acl.newest_features_from(self.kept[mirrored.long(), rows], self.like)
        images = self.images[rows]
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        return self.acl.newest_features(self.task.prepared(images))


@torch.no_grad()
def _computed(function: Callable[[Tensor], Tensor], images: Tensor, task: NewTask, is_mirrored: bool = False) -> Tensor:
    """A function of all pictures, or of their mirrors, a few at a time."""
    found = [function(task.prepared(part.flip(2) if is_mirrored else part)) for part in torch.split(images, CHUNK)]
    return torch.cat(found)


def _batches(labels: Tensor, settings: Settings, *at: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows, and whether each is mirrored, of an epoch's batches: a function of the seed and of `at` alone."""
    chance = np.random.default_rng((settings.seed, *at))
    rows = batches_of(labels, settings, chance)
    mirrored = torch.from_numpy(chance.random(len(labels)) < 0.5)
    yield from zip(rows, mirrored.tensor_split(len(rows)), strict=True)
