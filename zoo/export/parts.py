"""What of a network becomes a file: one input, one output. A network of two inputs has two parts, and files.

B inputs a batch, C channels, H height, W width, F frames, L tokens, K prototypes, E dimensions.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.export.check import steady_pictures
from zoo.registry.card import Card
from zoo.tasks.embed import Features

__all__ = ["Part", "of_modality", "part_of", "tasks_of"]

PAD = 0  # of every tokenizer in `zoo.data.tokens`


@dataclass(frozen=True)
class Part:
    """A network with one input and one output.

    Attributes:
        module: The network, evaluating.
        size: Of one input.
        input: Its name.
        output: The output's.
        facts: What whoever runs it has to know beside the card's facts.
        words: Entries of the vocabulary, where the input is tokens; 0 for pixels.
    """

    module: nn.Module
    size: tuple[int, ...]
    input: str = "image"
    output: str = "features"
    facts: dict[str, Any] = field(default_factory=dict)
    words: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return torch.int64 if self.words else torch.float32

    def inputs(self, count: int, size: tuple[int, ...] | None = None) -> Tensor:
        """(count, *size) on which two runtimes must agree; always the same ones.

        Raises:
            UsageError: There are too few.
        """
        if not self.words:
            return steady_pictures(self.module, size or self.size, count)
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(2, self.words, (count, *self.size), generator=random)
        for row in range(count):  # texts of different lengths
            ids[row, 2 + row % (self.size[0] - 1) :] = PAD
        return ids


class VideoTower(nn.Module):
    """(B, F, 3, H, W), normalised -> (B, K, E), the clips' prototypes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _without(model, "text_model", "txt_proj")

    def forward(self, video: Tensor) -> Tensor:
        return cast(Any, self.model).encode_video(video).vectors


class TextTower(nn.Module):
    """(B, L) tokens, padded with 0 -> (B, E), the texts' vectors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _without(model, "video_model", "vid_proj", "prototype")

    def forward(self, ids: Tensor) -> Tensor:
        return cast(Any, self.model).encode_text(ids, ids != PAD)


def _without(model: nn.Module, *names: str) -> nn.Module:
    """The same network, and the same tensors, but for some modules: a file has what its part needs."""
    rest = copy.copy(model)
    rest._modules = {name: module for name, module in model._modules.items() if name not in names}
    return rest


def tasks_of(card: Card) -> tuple[str, ...]:
    """The parts of a card's network, the one that is meant without a word first; none for what has no file."""
    if card.weights.status == "none":
        return ()
    return _TASKS.get(card.task, ())


def part_of(model: nn.Module, card: Card, task: str, size: tuple[int, ...]) -> Part:
    """A part of a network.

    Args:
        model: The network, or the part of it that one modality needs.
        card: Its card.
        task: One of `tasks_of`.
        size: (C, H, W) of its pictures.
    """
    return _PARTS[task](model, card, size)


def of_modality(model: nn.Module, card: Card, modality: str | None) -> nn.Module:
    """The part of a network that one modality needs; the network itself where there are none to choose from.

    Raises:
        UsageError: The network does not have it, or wants to be told.
    """
    part: Callable[[str], nn.Module] | None = getattr(model, "one_modality", None)
    if part is None and modality:
        raise UsageError(f"{card.name} knows no modalities", hint="leave the modality out")
    if part is None:
        return model
    try:
        return part(modality or "")
    except ValueError as error:
        raise UsageError(f"{card.name}: {error}", hint="each has a file of its own: --modality visible") from None


def _video(model: nn.Module, card: Card, size: tuple[int, ...]) -> Part:
    network = cast(Any, model)
    facts = {
        "frames": network.num_frames,
        "pixels": "RGB from 0 to 1, minus mean, divided by std; batch, frame, channel, row, column",
        "sampling": "the middle of each of as many equal parts of the clip as there are frames",
        "compare": "a text fits as well as the best of the prototypes, by dot product",
    }
    return Part(VideoTower(model), (network.num_frames, *size), "video", "prototypes", facts)


def _text(model: nn.Module, card: Card, size: tuple[int, ...]) -> Part:
    network = cast(Any, model)
    facts = {
        "vocabulary": network.vocabulary,
        "words": list(network.words),  # of a vocabulary of whole words, the first of which is number 2
        "tokens": f"{network.max_words} numbers, padded with {PAD}",
    }
    entries = next(module.num_embeddings for module in network.text_model.modules() if isinstance(module, nn.Embedding))
    return Part(TextTower(model), (network.max_words,), "ids", "vector", facts, words=entries)


def _classify(model: nn.Module, card: Card, size: tuple[int, ...]) -> Part:
    return Part(model, size, output="logits")


def _embed(model: nn.Module, card: Card, size: tuple[int, ...]) -> Part:
    return Part(Features(model), size)


def _reid(model: nn.Module, card: Card, size: tuple[int, ...]) -> Part:
    return Part(model, size)


_PARTS: dict[str, Callable[[nn.Module, Card, tuple[int, ...]], Part]] = {
    "classify": _classify,
    "embed": _embed,
    "reid": _reid,
    "video": _video,
    "text": _text,
}
_TASKS = {
    "classify": ("classify", "embed"),
    "embed": ("embed",),
    "reid": ("reid", "embed"),
    "retrieve": ("video", "text"),
}
