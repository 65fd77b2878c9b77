"""Accuracy while training: every picture counts once, however many processes measure."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Pictures
from zoo.data.sources import Samples
from zoo.registry.card import Input
from zoo.train.feed import NOBODY, Feed, Measured, share
from zoo.train.networks import normalise

__all__ = ["Judge", "accuracy"]

BATCH = 250


class Judge:
    """Measures a network on labelled pictures, which processes share out among themselves.

    Args:
        data: Pictures.
        side: Of the pictures.
        input: The network's preprocessing.
        device: Where the network is.
        rank: This process.
        world: Number of processes.
        workers: Processes that decode files.
        batch_size: Pictures at a time.
    """

    def __init__(
        self,
        data: Pictures | Samples,
        side: int,
        input: Input,
        device: torch.device,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        batch_size: int = BATCH,
    ) -> None:
        self.places = list(torch.split(share(len(data), rank, world), batch_size))
        measured = Measured(data, side, input)
        self.feed: Feed[Tensor] = Feed(measured, workers if measured.samples else 0, device.type == "cuda")
        self.classes = len(data.names)
        self.device = device
        self.bad: dict[str, None] = {}  # what is wrong with files that could not be read; they do not count
        self.input = input

    @torch.no_grad()  # inference mode would leave tensors in FSDP's hands that training cannot use
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Top-1, and top-5 of more than five classes, in per cent. All processes must call, and all get the same."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        def hits(k: int) -> Any:
            return MulticlassAccuracy(self.classes, top_k=k, average="micro", ignore_index=NOBODY, validate_args=False)

        wanted = {"top1": hits(1)} | ({"top5": hits(5)} if self.classes > 5 else {})
        metrics = MetricCollection(wanted, compute_groups=False).to(self.device)
        model.eval()
        for batch in self.feed(self.places):
            self.bad |= dict.fromkeys(batch.bad)
            logits = model(normalise(batch.images.to(self.device), self.input, False))
            metrics.update(logits.float(), batch.labels.to(self.device))
        return {name: 100 * float(value) for name, value in metrics.compute().items()}


def accuracy(model: nn.Module, pictures: Pictures, input: Input) -> float:
    """Per cent of pictures whose highest logit is their label."""
    device = next(model.parameters()).device
    return Judge(pictures, pictures.images.shape[1], input, device)(model)["top1"]
