"""STVGFormer: who a sentence speaks of, followed through a video by a static and a dynamic stream.

Z. Lin, C. Tan, J.-F. Hu, Z. Jin, T. Ye, W.-S. Zheng, "Collaborative Static and Dynamic Vision-Language Streams for
Spatio-Temporal Video Grounding", CVPR 2023; first in the HC-STVG track of the Person in Context challenge 2022
(technical report arXiv:2207.02756). The authors published neither code nor weights: what the paper leaves open follows
MDETR and TubeDETR, or is ours and said so here.

Letters: B videos, T sampled frames, K frames of a clip, H W pixels, h w grid, N = h w places, L words, D width. Pixels
are RGB in [0, 1]; each encoder brings the statistics that it was trained with. Masks are True on padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.layers.attention import sine_2d, sine_time
from zoo.models.stvgformer_blocks import (
    BoxHead,
    Collaboration,
    DynamicStream,
    Resizer,
    StaticStream,
    TemporalHead,
    spatial_mean,
)
from zoo.models.stvgformer_encoders import CLIPS, FRAMES, Statistics, Words, image_encoder, text_encoder, video_encoder

__all__ = ["Encoded", "Grounding", "STVGFormer", "stvgformer_r50_r3d18", "stvgformer_r101", "stvgformer_tiny"]


@dataclass(frozen=True)
class Encoded:
    """A video as both streams see it; any number of sentences can be asked of it.

    Attributes:
        static: (B, T, N, D) features of frames.
        dynamic: (B, T, N, D) features of clips, on the same grid; None where only the static stream is to look.
        grid: h and w.
        padding: (B, h, w).
        time_padding: (B, T); None where no step is padding.
    """

    static: Tensor
    dynamic: Tensor | None
    grid: tuple[int, int]
    padding: Tensor
    time_padding: Tensor | None = None


@dataclass(frozen=True)
class Grounding:
    """What was found.

    Attributes:
        boxes: (B, T, 4): centre, width and height as shares of the un-padded picture's sides.
        scores: (B, T, T) logits: row i, column j for the span from step i to step j, both included; None where the
            static stream looked alone.
        attention: (B, T) logits of the steps that matter; None likewise.
        earlier_boxes: The same boxes as earlier layers had them.
        looked: Of each layer, (B, T, N): where the static stream looked; sums to at most 1, the rest went to words.
        grid: h and w of the N places.
        absence: (B, T): share of its attention that the last layer gave to words, near 1 where nobody fits; None where
            the network was not taught so.
    """

    boxes: Tensor
    scores: Tensor | None
    attention: Tensor | None
    earlier_boxes: list[Tensor]
    looked: list[Tensor]
    grid: tuple[int, int]
    absence: Tensor | None = None

    def chances(self) -> Tensor:
        """How surely each span is what is meant, (B, T, T) in [0, 1]; below the diagonal are no spans.

        Where `absence` was learned, a span counts for as much as somebody was there in it, on average over its steps.

        Raises:
            ValueError: The static stream looked alone.
        """
        if self.scores is None:
            raise ValueError("the static stream alone finds no spans")
        shares = self.scores.float().sigmoid()
        if self.absence is None:
            return shares
        seen = F.pad((1 - self.absence.float()).cumsum(1), (1, 0))  # (B, T + 1), up to each edge
        step = torch.arange(seen.shape[1], device=seen.device)
        lengths = (step[1:] - step[:-1, None]).clamp(min=1)
        return shares * (seen[:, None, 1:] - seen[:, :-1, None]) / lengths


class STVGFormer(nn.Module):
    """Both streams, the blocks between them and the heads.

    Args:
        image: Encoder of frames: "resnet101", "resnet50", or "convs", three small convolutions.
        video: Encoder of clips: "slowfast" as for AVA, "slowfast_k400", "r3d18", or "convs", three small convolutions
            over the sampled frames themselves.
        text: "roberta-base", "minilm", or "word" for a vocabulary of its own.
        vocabulary: The words of text "word".
        dim: Width D of the streams.
        heads: Attention heads.
        depth: Layers of each stream, and blocks between them.
        hidden: Width inside feed-forward parts.
        dropout: Share dropped in training.
        map_dim: Channels of the map of spans.
        map_kernel: Side of its convolutions.
        map_depth: How many.
        mask_norm: 2D-TAN's way of convolving the map, see `TemporalHead`.
        s2d: Let the static stream tell the dynamic one where to look.
        d2s: Let the dynamic stream tell the static one what moves.
        ref_point: Add the boxes' centres to the mean of the attended places (ours, to learn from little).
        absence: Take attention on words for nobody being there (ours; asks for training with false sentences).
        frames: Sampled frames T that it is meant for.
        size: Short side in pixels that it is meant for.
        long_size: Longest long side.
    """

    def __init__(
        self,
        image: Literal["resnet101", "resnet50", "convs"] = "resnet101",
        video: Literal["slowfast", "slowfast_k400", "r3d18", "convs"] = "slowfast",
        text: Literal["roberta-base", "minilm", "word"] = "roberta-base",
        vocabulary: Sequence[str] = (),
        *,
        dim: int = 256,
        heads: int = 8,
        depth: int = 6,
        hidden: int = 2048,
        dropout: float = 0.1,
        map_dim: int = 256,
        map_kernel: int = 5,
        map_depth: int = 4,
        mask_norm: bool = False,
        s2d: bool = True,
        d2s: bool = True,
        ref_point: bool = False,
        absence: bool = False,
        frames: int = 64,
        size: int = 352,
        long_size: int = 587,
    ) -> None:
        super().__init__()
        self.dim, self.depth = dim, depth
        self.s2d, self.d2s, self.ref_point, self.absence = s2d, d2s, ref_point, absence
        self.frames, self.size, self.long_size = frames, size, long_size
        self.text, self.vocabulary = text, tuple(vocabulary)
        self.checkpointing = False

        self.backbone, image_width = image_encoder(image)
        self.input_proj = nn.Conv2d(image_width, dim, 1)
        self.video_encoder, video_width = video_encoder(video)
        self.video_proj = nn.Linear(video_width, dim)
        self.clip = CLIPS[video]
        self.text_encoder, text_width = text_encoder(text, vocabulary)
        self.resizer = Resizer(text_width, dim, dropout)

        layer = (dim, heads, hidden, dropout)
        self.static = StaticStream(depth, *layer)
        self.query_embed = nn.Embedding(1, dim)
        self.dynamic = DynamicStream(depth, *layer)
        self.collab = nn.ModuleList(Collaboration(dim, heads, dropout) for _ in range(depth))
        self.bbox_embed = BoxHead(dim)
        self.temporal_head = TemporalHead(dim, map_dim, map_kernel, map_depth, mask_norm=mask_norm)
        for part in (self.static, self.dynamic, self.collab):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)

    def train(self, mode: bool = True) -> Self:
        """As in torch; but what a clip encoder's batch norms know of their training data they keep."""
        super().train(mode)
        if self.clip.frames:
            self.video_encoder.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep less for the backward pass and compute it again."""
        self.checkpointing = enable

    def forward(
        self,
        frames: Tensor,
        words: Words,
        clips: Tensor | None = None,
        padding: Tensor | None = None,
        time_padding: Tensor | None = None,
        *,
        clip_features: Tensor | None = None,
        static_only: bool = False,
    ) -> Grounding:
        """Encode and ground at once; see `encode` and `ground`."""
        video = self.encode(frames, clips, padding, time_padding, clip_features=clip_features, static_only=static_only)
        return self.ground(video, words)

    def encode(
        self,
        frames: Tensor,
        clips: Tensor | None = None,
        padding: Tensor | None = None,
        time_padding: Tensor | None = None,
        *,
        clip_features: Tensor | None = None,
        static_only: bool = False,
        chunk: int | None = None,
    ) -> Encoded:
        """What does not depend on the sentence.

        Args:
            frames: (B, T, 3, H, W).
            clips: (B, T, 3, K, H, W); none where `clip.frames` is 0.
            padding: (B, H, W), at the right and the bottom.
            time_padding: (B, T), at the end.
            clip_features: (B, T, C, h', w') of `video_encoder`, in place of clips.
            static_only: Leave the dynamic stream out.
            chunk: Frames and clips encoded at once; all by default.

        Raises:
            ValueError: Clips are missing, or there are some where none are wanted.
        """
        parts = _normalised(frames.flatten(0, 1), FRAMES, padding, chunk)
        maps = torch.cat([self.input_proj(self.backbone(part)) for part in parts])
        grid = (maps.shape[-2], maps.shape[-1])
        places = torch.zeros(len(frames), *grid, dtype=torch.bool, device=maps.device)
        if padding is not None:
            places = F.interpolate(padding[:, None].float(), grid)[:, 0] > 0.5  # the nearest pixel's
        batch = frames.shape[:2]
        static = maps.flatten(2).transpose(1, 2).reshape(*batch, -1, self.dim)
        dynamic = None
        if not static_only:
            if clip_features is None:
                clip_features = self.encode_clips(frames, clips, padding, time_padding, chunk=chunk)
            seen = self.video_proj(clip_features.flatten(0, 1).movedim(1, -1)).movedim(-1, 1)
            dynamic = _on_grid(seen, grid).flatten(2).transpose(1, 2).reshape(*batch, -1, self.dim)
        return Encoded(static, dynamic, grid, places, time_padding)

    def encode_clips(
        self,
        frames: Tensor,
        clips: Tensor | None,
        padding: Tensor | None = None,
        time_padding: Tensor | None = None,
        *,
        chunk: int | None = None,
    ) -> Tensor:
        """What the clip encoder sees around each frame, (B, T, C, h', w'); arguments and errors as in `encode`."""
        if (clips is None) == bool(self.clip.frames):
            raise ValueError(f"this network takes {'clips' if self.clip.frames else 'no clips'} beside frames")
        batch = frames.shape[:2]
        shown = frames if clips is None else clips
        parts = _normalised(shown.flatten(0, 1), self.clip.statistics, padding, chunk)
        if clips is None:
            seen = self.video_encoder(torch.cat(list(parts)).view(frames.shape).transpose(1, 2), time_padding)
        else:
            seen = torch.cat([self.video_encoder(part) for part in parts])
        return seen.view(*batch, *seen.shape[1:])

    def encode_words(self, words: Words) -> Tensor:
        """(B, L, D)."""
        known = self.text_encoder(words.ids, ~words.padding)
        return self.resizer(getattr(known, "last_hidden_state", known))  # as the library transformers answers

    def ground(self, video: Encoded, words: Words, *, chunk: int | None = None) -> Grounding:
        """Find what sentences speak of.

        Args:
            video: Of `encode`.
            words: B sentences, one for each video.
            chunk: Frames that the static encoder takes at once; all by default. The answer is the same.
        """
        text = self.encode_words(words)
        frames, places = video.static.shape[1], video.static.shape[2]
        space = video.padding.flatten(1) if video.padding.any() else None
        place = sine_2d(video.padding, self.dim)  # (B, N, D)
        time = sine_time(frames, self.dim, place.device)

        memory, position, padding = self._static_memory(video, text, words.padding, place, chunk)
        query = text.new_zeros(len(memory), 1, self.dim)
        state, spoken = video.dynamic, text
        boxes, looked, absence = [], [], None
        layers = zip(self.static.decoder.layers, self.dynamic.layers, self.collab, strict=True)
        for decoder, dynamic, collab in layers:
            assert isinstance(collab, Collaboration)
            query, weights = self._run(decoder, query, self.query_embed.weight[None], memory, position, padding)
            told = query.view(-1, frames, self.dim)
            attention = weights[:, 0, :places].reshape(-1, frames, places)
            if self.absence:
                absence = weights[:, 0, places:].sum(-1).view(-1, frames)
            if state is not None:
                state, spoken = self._run(dynamic, state, spoken, place, time, space, video.time_padding, words.padding)
                if self.d2s:
                    told = collab.dynamic_to_static(told, state, time, space, video.time_padding)
                if self.s2d:
                    state = collab.static_to_dynamic(state, attention)
            query = told.flatten(0, 1)[:, None]
            boxes.append(self._boxes(told, attention, video.padding))
            looked.append(attention)
        scores, steps = None, None
        if state is not None:
            scores, steps = self.temporal_head(spatial_mean(state, space), video.time_padding)
        return Grounding(boxes[-1], scores, steps, boxes[:-1], looked, video.grid, absence)

    def _static_memory(
        self, video: Encoded, text: Tensor, text_padding: Tensor, place: Tensor, chunk: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The static encoder's tokens (B T, N + L, D), visual ones first, their positions, and what is padding."""
        frames = video.static.shape[1]
        words = text.repeat_interleave(frames, 0)
        position = torch.cat([place, place.new_zeros(len(text), text.shape[1], self.dim)], 1)
        position = position.repeat_interleave(frames, 0)
        padding = torch.cat([video.padding.flatten(1), text_padding], 1).repeat_interleave(frames, 0)
        memory = []
        tokens = torch.cat([video.static.flatten(0, 1), words], 1)
        for part, where, masked in zip(*(_parts(x, chunk) for x in (tokens, position, padding)), strict=True):
            for layer in self.static.encoder.layers:
                part = self._run(layer, part, where, masked)
            memory.append(part)
        return torch.cat(memory), position, padding

    def _boxes(self, query: Tensor, attention: Tensor, padding: Tensor) -> Tensor:
        """Queries (B, T, D) as boxes (B, T, 4)."""
        logits = self.bbox_embed(self.static.decoder.norm(query)).float()
        if self.ref_point:
            centre = torch.logit(_mean_place(attention.float(), padding), 1e-4)
            logits = torch.cat([logits[..., :2] + centre, logits[..., 2:]], -1)
        return logits.sigmoid()

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Any:
        if self.checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def _mean_place(attention: Tensor, padding: Tensor) -> Tensor:
    """Mean of the places (x, y), as shares of the un-padded picture, weighted by (B, T, N) attention: (B, T, 2)."""
    inside = (~padding).float()
    x = (inside.cumsum(2) - 0.5) / inside.sum(2).amax(1)[:, None, None]
    y = (inside.cumsum(1) - 0.5) / inside.sum(1).amax(1)[:, None, None]
    at = torch.stack([x, y], -1).flatten(1, 2)  # (B, N, 2)
    return attention @ at / attention.sum(-1, keepdim=True).clamp(min=1e-6)


def _on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, D, h', w') on another grid: averaged where that is coarser, between the nearest four where it is finer."""
    if features.shape[-2:] == grid:
        return features
    if grid[0] <= features.shape[-2] and grid[1] <= features.shape[-1]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, grid, mode="bilinear")


def _normalised(pixels: Tensor, of: Statistics, padding: Tensor | None, chunk: int | None) -> Iterator[Tensor]:
    """(B T, 3, ..., H, W) pixels a chunk at a time, with 0 on the padding (B, H, W) of their videos, as in DETR."""
    masks = None if padding is None else _parts(padding.repeat_interleave(len(pixels) // len(padding), 0), chunk)
    for at, part in enumerate(_parts(pixels, chunk)):
        part = of.normalise(part)
        if masks is not None:
            part = part.masked_fill(masks[at].view(len(part), *(1,) * (part.ndim - 3), *part.shape[-2:]), 0)
        yield part


def _parts(x: Tensor, chunk: int | None) -> Sequence[Tensor]:
    return torch.split(x, chunk) if chunk else (x,)


# what the sentences about drawn people are made of, here and in retrieval
WORDS = (
    *("the", "a", "person", "in", "on", "and", "trousers"),
    *("red", "green", "blue", "yellow", "purple", "orange", "white", "black", "gray", "brown", "navy"),
    *("grass", "sand", "concrete", "snow"),
    *("walks", "to", "left", "right", "jumps", "up", "down", "waves", "hand", "bends", "stands", "spins", "around"),
)


def _build(pretrained: bool, pretrained_cfg: dict[str, Any] | None, **args: Any) -> STVGFormer:
    model = STVGFormer(**args)
    if pretrained and pretrained_cfg:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(pretrained_cfg["file"]))
    return model


def stvgformer_r101(
    pretrained: bool = False, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> STVGFormer:
    """The paper's: ResNet-101, RoBERTa, SlowFast R50 of AVA; six layers."""
    return _build(pretrained, pretrained_cfg, **kwargs)


def stvgformer_r50_r3d18(
    pretrained: bool = False, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> STVGFormer:
    """A smaller one of ours for GPUs of 8 GB: ResNet-50, RoBERTa, r3d_18; three layers."""
    args = {"image": "resnet50", "video": "r3d18", "depth": 3, "size": 224, "long_size": 374, **kwargs}
    return _build(pretrained, pretrained_cfg, **args)


def stvgformer_tiny(
    pretrained: bool = False, pretrained_cfg: dict[str, Any] | None = None, **kwargs: Any
) -> STVGFormer:
    """One of ours that learns drawn people on a CPU: small convolutions, a vocabulary of words, two layers."""
    small = {"image": "convs", "video": "convs", "text": "word", "vocabulary": WORDS}
    ours = {"ref_point": True, "absence": True, "frames": 10, "size": 64, "long_size": 128}
    sizes = {"dim": 64, "heads": 4, "depth": 2, "hidden": 256, "map_dim": 64, "map_depth": 3, "dropout": 0.0}
    return _build(pretrained, pretrained_cfg, **small | ours | sizes | kwargs)
