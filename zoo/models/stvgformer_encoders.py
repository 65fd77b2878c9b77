"""What STVGFormer sees and reads with: encoders of frames, of clips and of sentences.

Modules carry the names of the published files that initialise them: torchvision's ResNet, PyTorchVideo's SlowFast,
Hugging Face's RoBERTa.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.slowfast import SlowFast
from zoo.layers.text import WordEncoder, bert, roberta

__all__ = [
    "CLIPS",
    "FRAMES",
    "Clip",
    "Statistics",
    "Words",
    "image_encoder",
    "read_words",
    "text_encoder",
    "video_encoder",
]

PAD, UNKNOWN = 0, 1  # the first two numbers of a vocabulary of our own


class Statistics(NamedTuple):
    """Mean and deviation of the pixels that an encoder was trained with, RGB in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, ...) pixels as the encoder wants them."""
        shape = (1, 3) + (1,) * (pixels.ndim - 2)
        mean, std = (pixels.new_tensor(values).view(shape) for values in self)
        return (pixels - mean) / std


@dataclass(frozen=True)
class Clip:
    """What an encoder of clips wants around each sampled moment.

    Attributes:
        frames: How many, evenly spaced; 0 where it sees the sampled frames themselves and nothing between them.
        seconds: From the first to behind the last.
        statistics: Of its pixels.
    """

    frames: int
    seconds: float
    statistics: Statistics


FRAMES = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIPS = {
    "slowfast": Clip(32, 64 / 30, Statistics((0.45,) * 3, (0.225,) * 3)),
    "slowfast_k400": Clip(32, 64 / 30, Statistics((0.45,) * 3, (0.225,) * 3)),
    "r3d18": Clip(16, 16 / 15, Statistics((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))),
    "convs": Clip(0, 0.0, FRAMES),
}
TEXT_WIDTHS = {"roberta-base": 768, "minilm": 384, "word": 64}


class Body(nn.Module):
    """A level more in the names, as in MDETR's files."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def image_encoder(kind: str) -> tuple[nn.Module, int]:
    """From (M, 3, H, W) to the last map, and its channels: ResNets with frozen norms at stride 32, "convs" at 8."""
    if kind == "convs":
        chs = (3, 32, 64, 64)
        parts: dict[str, nn.Module] = {}
        for i in range(3):
            parts |= {
                f"conv{i + 1}": nn.Conv2d(chs[i], chs[i + 1], 3, 2, 1, bias=False),
                f"norm{i + 1}": nn.GroupNorm(8, chs[i + 1]),
                f"relu{i + 1}": nn.ReLU(),
            }
        return nn.Sequential(Body(parts)), chs[-1]
    if kind not in ("resnet50", "resnet101"):
        raise ValueError(f"no image encoder {kind!r}; resnet101, resnet50 or convs")

    import torchvision

    network = getattr(torchvision.models, kind)(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(Body({name: getattr(network, name) for name in names})), network.fc.in_features


def video_encoder(kind: str) -> tuple[nn.Module, int]:
    """From (M, 3, K, H, W) clips to (M, C, h, w), and C; "convs" from (B, 3, T, H, W) to a map for each frame."""
    network: FrameConvs | SlowFast | ResNet3d
    if kind == "convs":
        network = FrameConvs()
    elif kind in ("slowfast", "slowfast_k400"):
        network = SlowFast(dilated=kind == "slowfast")
    elif kind == "r3d18":
        network = ResNet3d()
    else:
        raise ValueError(f"no video encoder {kind!r}; one of {', '.join(CLIPS)}")
    return network, network.num_features


class ResNet3d(nn.Module):
    """torchvision's r3d_18 up to its last stage, averaged over time; stride 16."""

    num_features = 512

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        network = torchvision.models.video.r3d_18()
        for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(network, name))

    def forward(self, clips: Tensor) -> Tensor:
        for part in self.children():
            clips = part(clips)
        return clips.mean(2)


class FrameConvs(nn.Module):
    """Three 3x3x3 convolutions over the sampled frames, stride 8 in space and 1 in time; norms look at one frame.

    Each is written as a flat convolution over a frame and its two neighbours, which a CPU does three times as fast.
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        chs = (3, 32, 64, self.num_features)
        self.convs = nn.ModuleList(nn.Conv2d(3 * chs[i], chs[i + 1], 3, 2, 1, bias=False) for i in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in chs[1:])

    def forward(self, clips: Tensor, time_padding: Tensor | None = None) -> Tensor:
        """(B, 3, T, H, W) to (B T, C, h, w); steps that (B, T) says are padding are as if they were not there."""
        frames = clips.transpose(1, 2)
        batch = frames.shape[:2]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if time_padding is not None:
                frames = frames.masked_fill(time_padding[:, :, None, None, None], 0)
            padded = F.pad(frames, (0, 0) * 3 + (1, 1))
            around = torch.cat([padded[:, :-2], frames, padded[:, 2:]], 2)
            seen = norm(conv(around.flatten(0, 1))).relu()
            frames = seen.view(*batch, *seen.shape[1:])
        return frames.flatten(0, 1)


class Words(NamedTuple):
    """Sentences as a text encoder takes them.

    Attributes:
        ids: (B, L) int64.
        padding: (B, L), True behind a sentence's end.
        unknown: Of each sentence, the words that the vocabulary lacks.
    """

    ids: Tensor
    padding: Tensor
    unknown: list[list[str]]

    def to(self, device: torch.device) -> "Words":
        """The same on a device."""
        return Words(self.ids.to(device), self.padding.to(device), self.unknown)


def text_encoder(kind: str, vocabulary: Sequence[str]) -> tuple[nn.Module, int]:
    """An encoder called with numbers of tokens and where they are, both (B, L), and its width."""
    if kind not in TEXT_WIDTHS:
        raise ValueError(f"no text encoder {kind!r}; one of {', '.join(TEXT_WIDTHS)}")
    width = TEXT_WIDTHS[kind]
    if kind == "roberta-base":
        return roberta(), width
    if kind == "minilm":
        fields = {"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return bert(hidden_size=width, **fields), width
    if not vocabulary:
        raise ValueError("a text encoder of words needs a vocabulary")
    return WordEncoder(len(vocabulary) + 2, width, depth=0), width


def read_words(sentences: Sequence[str], vocabulary: Sequence[str]) -> Words:
    """Sentences in a vocabulary of our own, lower case, punctuation left out.

    Args:
        sentences: B of them, each with a word in it.
        vocabulary: What is known.
    """
    numbers = {word: number for number, word in enumerate(vocabulary, UNKNOWN + 1)}
    split = [["".join(filter(str.isalnum, word)) for word in text.lower().split()] for text in sentences]
    split = [[word for word in words if word] for words in split]
    length = max(map(len, split))
    ids = torch.full((len(split), length), PAD)
    for row, words in enumerate(split):
        ids[row, : len(words)] = torch.tensor([numbers.get(word, UNKNOWN) for word in words])
    return Words(ids, ids == PAD, [[word for word in words if word not in numbers] for words in split])
