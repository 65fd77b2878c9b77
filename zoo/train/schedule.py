"""Learning rate over a training."""

import math

from zoo.train.recipe import Schedule

__all__ = ["learning_rate"]

HEAD_START = 4  # the published scheduler begins its cosine that many epochs before the warm-up's last one


def learning_rate(schedule: Schedule, highest: float, epoch: int, done: float = 0.0) -> float:
    """Learning rate at a point of the training.

    Args:
        schedule: Shape and length.
        highest: What the warm-up climbs to.
        epoch: Epochs finished.
        done: Share of the current epoch that is finished, in [0, 1).
    """
    if schedule.shape == "epoch_cosine":
        return _epoch_cosine(schedule.epochs, int(schedule.warmup), highest, epoch)
    now = epoch + done
    if now < schedule.warmup:
        return highest * now / schedule.warmup
    if schedule.shape == "constant":
        return highest
    if schedule.shape == "step":
        return highest * schedule.step_rate ** sum(epoch >= fall for fall in schedule.step_epochs)
    falling, length, depth = now - schedule.warmup, schedule.epochs - schedule.warmup, highest - schedule.min_lr
    if schedule.shape == "linear":
        return highest - depth * falling / length
    return schedule.min_lr + depth * (1 + math.cos(math.pi * falling / length)) / 2


def _epoch_cosine(epochs: int, warmup: int, highest: float, epoch: int) -> float:
    """The ReSTE paper's released schedule, constant within an epoch."""
    if not warmup:
        return highest * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if epoch < warmup:
        return highest * (epoch + 1) / warmup
    # Its cosine is chained onto the warm-up's end while still rising, so that the peak comes a few epochs later and is
    # a few millionths above `highest`.
    length = epochs - warmup + 1
    peak = 1 + math.cos(math.pi * HEAD_START / length)
    return highest * (1 + math.cos(math.pi * (epoch - warmup + 1 - HEAD_START) / length)) / peak
