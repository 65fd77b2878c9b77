"""TMVM: several prototypes a video, made by masks over its tokens; a text is compared with the most similar one.

C. Lin, A. Wu, J. Liang, J. Zhang, W. Ge, W.-S. Zheng and C. Shen, "Text-Adaptive Multiple Visual Prototype Matching for
Video-Text Retrieval", arXiv:2209.13307. No code of the paper is public. What it does not say is decided here: the
number of prototypes, the masks' normalisation, the global token that is added, and the variance loss.

B clips of F frames, N tokens (frame after frame, n a frame), D width, K prototypes, E dimensions of the shared space.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.clip import ClipText, ClipVision
from zoo.layers.space_time import SpaceTimeTransformer, fit_frames
from zoo.layers.text import WordEncoder, bert, distilbert, sentence

__all__ = [
    "TMVM",
    "Compared",
    "Prototypes",
    "match",
    "tmvm_clip_vit_b32",
    "tmvm_frozen_base",
    "tmvm_lite",
    "tmvm_tiny",
]

MaskKind = Literal["softmax", "sigmoid", "none"]


class Prototypes(NamedTuple):
    """What a clip is compared by.

    Attributes:
        vectors: (B, K, E), unit length.
        masks: (B, N, K); each adds up to 1 over the tokens.
    """

    vectors: Tensor
    masks: Tensor


class Compared(NamedTuple):
    """Texts and clips, compared.

    Attributes:
        similarity: (T, B), of the most similar prototypes.
        winners: (T, B) numbers of those.
        vectors: (B, K, E), the prototypes.
        masks: (B, N, K).
    """

    similarity: Tensor
    winners: Tensor
    vectors: Tensor
    masks: Tensor


def match(texts: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity of texts with clips: that of the most similar prototype, and which one it was.

    Args:
        texts: (T, E), unit length.
        prototypes: (B, K, E), unit length.

    Returns:
        (T, B) similarities and (T, B) numbers of prototypes. Gradients flow through the winners.
    """
    best = torch.einsum("te,bke->tbk", texts, prototypes).max(2)
    return best.values, best.indices


class PrototypeHead(nn.Module):
    """K masks over a clip's tokens, each of which pools a vector.

    Args:
        dim: D.
        count: K.
        mask_kind: "softmax" over all tokens; "sigmoid", divided by its sum, whose masks may cover much or little with
            equal weights; "none" leaves the global token as the one prototype.
        use_global: Whether the global token is added to each.
        is_gated: Whether the pooled part is scaled by a learned number that begins at 0, so that the network begins as
            the encoder under it.
    """

    def __init__(
        self, dim: int, count: int = 4, mask_kind: MaskKind = "softmax", use_global: bool = True, is_gated: bool = False
    ) -> None:
        super().__init__()
        if mask_kind not in ("softmax", "sigmoid", "none"):
            raise ValueError(f"mask_kind is softmax, sigmoid or none, not {mask_kind!r}")
        if count < 1 or (mask_kind == "none" and count != 1):
            raise ValueError(f"{count} prototypes with {mask_kind} masks; without masks there is one")
        self.mask_kind, self.use_global = mask_kind, use_global
        self.mask = nn.Linear(dim, count) if mask_kind != "none" else None
        self.beta = nn.Parameter(torch.zeros(())) if is_gated else None
        if self.mask is not None:
            nn.init.normal_(self.mask.weight, std=0.02)  # with zeros all prototypes would be one, and stay so
            nn.init.zeros_(self.mask.bias)

    def forward(self, x: Tensor, whole: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) and the global token (B, 1, D) -> prototypes (B, K, D) and masks (B, N, K).

        Args:
            x: Tokens.
            whole: Global token.
            seen: (B, N), false for tokens of frames that only fill up the clip.
        """
        if self.mask is None:
            even = x.new_ones(x.shape[:2]) if seen is None else seen.to(x.dtype)
            return whole, (even / even.sum(1, keepdim=True)).unsqueeze(2)
        logits = self.mask(x).float()
        if seen is not None:
            logits = logits.masked_fill(~seen.unsqueeze(2), -torch.inf)
        if self.mask_kind == "softmax":
            masks = logits.softmax(1)
        else:
            open_ = logits.sigmoid()
            masks = open_ / open_.sum(1, keepdim=True)
        masks = masks.to(x.dtype)
        pooled = masks.transpose(1, 2) @ x
        if self.beta is not None:
            pooled = self.beta * pooled
        return (pooled + whole if self.use_global else pooled), masks


class ClipFrames(nn.Module):
    """CLIP's vision transformer on each frame; all tokens pass its last norm and projection.

    Args:
        num_frames: Most frames of a clip.
        embed_dim: E, which is this encoder's D.
        **config: For `ClipVision`.
    """

    def __init__(self, num_frames: int, embed_dim: int, **config: int) -> None:
        super().__init__()
        self.visual = ClipVision(embed_dim=embed_dim, **config)
        self.grid = self.visual.grid
        self.num_frames = num_frames
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))

    def forward(self, video: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, F, 3, H, W) -> (B, 1 + F n, D); the global token is the mean of the frames' class tokens."""
        tokens = self.visual(video.flatten(0, 1)).unflatten(0, video.shape[:2])  # (B, F, 1 + n, D)
        whole = _mean_over_frames(tokens[:, :, 0], seen)
        local = tokens[:, :, 1:] + _places(self.temporal_embed, video.shape[1])
        return torch.cat((whole, local.flatten(1, 2)), 1)


class FrameEncoder(nn.Module):
    """A network of timm on each frame, and transformer layers along time at each place of its last map.

    Args:
        backbone: timm's name of it.
        dim: D.
        depth: Transformer layers.
        num_heads: Of each.
        num_frames: Most frames of a clip.
        size: Side of a frame.
    """

    def __init__(self, backbone: str, dim: int, depth: int, num_heads: int, num_frames: int, size: int) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(backbone, num_classes=0, global_pool="")
        self.backbone = network
        side = -(-size // network.feature_info[-1]["reduction"])
        self.grid = side, side
        self.num_frames = num_frames
        self.proj = nn.Linear(network.num_features, dim)
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, video: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, F, 3, H, W) -> (B, 1 + F n, D); the global token is the mean of all others."""
        batch, frames = video.shape[:2]
        maps = self.backbone(video.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B F, n, C)
        x = self.proj(maps).unflatten(0, (batch, frames)) + _places(self.temporal_embed, frames)
        lines = x.transpose(1, 2).flatten(0, 1)  # (B n, F, D)
        unseen = None if seen is None else (~seen).repeat_interleave(x.shape[2], 0)
        for layer in self.layers:
            lines = layer(lines, src_key_padding_mask=unseen)
        x = self.norm(lines).unflatten(0, (batch, -1)).transpose(1, 2)
        return torch.cat((_mean_over_frames(x.mean(2), seen), x.flatten(1, 2)), 1)


def _places(embedding: Tensor, frames: int) -> Tensor:
    """(1, F, D) embeddings of the first frames as (1, F, 1, D)."""
    if frames > embedding.shape[1]:
        raise ValueError(f"{frames} frames; {embedding.shape[1]} at most")
    return embedding[:, :frames, None]


def _mean_over_frames(x: Tensor, seen: Tensor | None) -> Tensor:
    """(B, F, D) -> (B, 1, D), over the frames that are seen."""
    if seen is None:
        return x.mean(1, keepdim=True)
    share = seen.to(x.dtype).unsqueeze(2)
    return (x * share).sum(1, keepdim=True) / share.sum(1, keepdim=True)


class TMVM(nn.Module):
    """A video encoder and a text encoder with the prototype head between them.

    Args:
        video_model: (B, F, 3, H, W), and which frames count -> (B, 1 + N, D), the global token first.
        text_model: (T, L) ids and where tokens are -> (T, L, D'), or (T, E) where `pool` is "end".
        dim: D.
        text_dim: D'; 0 leaves both sides without projections, as CLIP has its own.
        embed_dim: E.
        pool: What is read of the text's tokens: "first", "mean", or "end" where the encoder does it.
        text_relu: Whether a ReLU comes before the text's projection, as in Frozen in Time.
        vocabulary: Of the text encoder: "bert", "clip" or "words".
        max_words: Most tokens of a text, markers included.
        words: The vocabulary "words".
        prototypes: K.
        mask_kind: See `PrototypeHead`.
        use_global: See `PrototypeHead`.
        is_gated: See `PrototypeHead`.
        temperature: What similarities are divided by in training; 0 learns it, as CLIP does.
    """

    def __init__(
        self,
        video_model: nn.Module,
        text_model: nn.Module,
        *,
        dim: int,
        text_dim: int,
        embed_dim: int,
        pool: str,
        text_relu: bool = False,
        vocabulary: str,
        max_words: int,
        words: Sequence[str] = (),
        prototypes: int = 4,
        mask_kind: MaskKind = "softmax",
        use_global: bool = True,
        is_gated: bool = False,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.video_model, self.text_model = video_model, text_model
        self.pool, self.vocabulary, self.max_words, self.words = pool, vocabulary, max_words, tuple(words)
        self.num_frames: int = video_model.num_frames  # type: ignore[assignment]  # nn.Module declares a tensor
        self.grid: tuple[int, int] = video_model.grid  # type: ignore[assignment]
        self.num_prototypes, self.embed_dim = prototypes, embed_dim
        self.prototype = PrototypeHead(dim, prototypes, mask_kind, use_global, is_gated)
        self.vid_proj = nn.Sequential(nn.Linear(dim, embed_dim)) if text_dim else nn.Identity()
        before = [nn.ReLU()] if text_relu else [nn.Identity()]
        self.txt_proj = nn.Sequential(*before, nn.Linear(text_dim, embed_dim)) if text_dim else nn.Identity()
        self.logit_scale = None if temperature else nn.Parameter(torch.tensor(1 / 0.07).log())
        self.temperature = temperature

    @property
    def authors_keys(self) -> tuple[tuple[str, str | None], ...]:
        """Keys of Frozen in Time, which are ours, and of OpenAI's CLIP -> ours; `zoo.convert` applies it."""
        if not isinstance(self.text_model, ClipText):
            return ((r"^text_model\.embeddings\.position_ids$", None),)
        return (
            (r"^(input_resolution|context_length|vocab_size)$", None),
            (r"^visual\.", "video_model.visual."),
            (r"^(transformer|token_embedding|positional_embedding|ln_final|text_projection)\b", r"text_model.\1"),
        )

    def complete(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an authors' checkpoint lacks, or has for another number of frames; `zoo.convert` adds it.

        Masks that were never trained begin as in a new network of seed 0; frames beyond the file's have no embedding.
        """
        random = torch.Generator().manual_seed(0)
        shapes = {key: value.shape for key, value in self.state_dict().items()}
        added = {}
        for key, shape in shapes.items():
            if key.endswith("temporal_embed"):
                known = state.get(key, torch.zeros(1, 1, shape[2]))
                if known.ndim == 3 and known.shape != shape:
                    added[key] = fit_frames(known, shape[1])
            elif key.startswith("prototype.") and key not in state:
                is_weight = key.endswith("weight")
                added[key] = torch.randn(shape, generator=random) * 0.02 if is_weight else torch.zeros(shape)
        return added

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the video encoder's activations in the backward pass.

        Raises:
            AttributeError: This encoder cannot.
        """
        if not isinstance(self.video_model, SpaceTimeTransformer):
            raise AttributeError("only the space-time transformer recomputes activations")
        self.video_model.checkpointing = enable

    @property
    def scale(self) -> Tensor | float:
        """What similarities are multiplied with in training."""
        return 1 / self.temperature if self.logit_scale is None else self.logit_scale.exp().clamp(max=100)

    def encode_video(self, video: Tensor, seen: Tensor | None = None) -> Prototypes:
        """Clips as prototypes.

        Args:
            video: (B, F, 3, H, W), normalised; F from 1 to `num_frames`.
            seen: (B, F), false for frames that only fill up a clip; such frames change nothing.
        """
        tokens = self.video_model(video, seen)
        whole, local = tokens[:, :1], tokens[:, 1:]
        inside = None if seen is None else seen.repeat_interleave(local.shape[1] // seen.shape[1], 1)
        pooled, masks = self.prototype(local, whole, inside)
        return Prototypes(F.normalize(self.vid_proj(pooled), dim=2), masks)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(T, L) tokens and where they are -> (T, E), unit length."""
        if self.pool == "end":
            return F.normalize(self.text_model(ids), dim=1)
        answer = self.text_model(ids, mask)
        hidden = getattr(answer, "last_hidden_state", answer)  # of transformers' encoders, of ours
        return F.normalize(self.txt_proj(sentence(hidden, mask.bool(), self.pool)), dim=1)

    def forward(self, video: Tensor, ids: Tensor, mask: Tensor, seen: Tensor | None = None) -> Compared:
        """T texts against B clips; arguments as for the two encoders."""
        prototypes = self.encode_video(video, seen)
        return Compared(*match(self.encode_text(ids, mask), prototypes.vectors), *prototypes)


def _loaded(model: TMVM, pretrained: bool, pretrained_cfg: Mapping[str, Any] | None) -> TMVM:
    if pretrained and pretrained_cfg:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(pretrained_cfg["file"]))
    return model


def tmvm_frozen_base(
    pretrained: bool = False,
    pretrained_cfg: Mapping[str, Any] | None = None,
    *,
    img_size: int = 224,
    patch_size: int = 16,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    num_frames: int = 8,
    text: Mapping[str, Any] | None = None,
    embed_dim: int = 256,
    max_words: int = 64,
    **head: Any,
) -> TMVM:
    """The paper's shape: the space-time ViT-B/16 and DistilBERT of Frozen in Time.

    Args:
        pretrained: Load weights.
        pretrained_cfg: Its "file" holds them.
        img_size: Side of a frame.
        patch_size: Side of a patch.
        width: D.
        depth: Blocks of the video encoder.
        num_heads: Of the video encoder.
        num_frames: Most frames of a clip.
        text: Fields of DistilBERT's configuration that differ from the published one.
        embed_dim: E.
        max_words: Most tokens of a text.
        **head: `prototypes`, `mask_kind`, `use_global`, `temperature`.
    """
    video = SpaceTimeTransformer(img_size, patch_size, width, depth, num_heads, num_frames)
    words = distilbert(**dict(text or {}))
    text_dim = int((text or {}).get("dim", 768))
    sizes: dict[str, Any] = {"dim": width, "text_dim": text_dim, "embed_dim": embed_dim, "max_words": max_words}
    model = TMVM(video, words, pool="first", text_relu=True, vocabulary="bert", **sizes, **head)
    return _loaded(model, pretrained, pretrained_cfg)


def tmvm_clip_vit_b32(
    pretrained: bool = False,
    pretrained_cfg: Mapping[str, Any] | None = None,
    *,
    embed_dim: int = 512,
    image_resolution: int = 224,
    vision_layers: int = 12,
    vision_width: int = 768,
    vision_patch_size: int = 32,
    context_length: int = 77,
    vocab_size: int = 49408,
    transformer_width: int = 512,
    transformer_layers: int = 12,
    num_frames: int = 12,
    **head: Any,
) -> TMVM:
    """CLIP ViT-B/32 on each frame; before any training it is CLIP averaged over the frames. Ours.

    Args:
        pretrained: Load weights.
        pretrained_cfg: Its "file" holds them.
        embed_dim: E.
        image_resolution: Side of a frame.
        vision_layers: Blocks of the image side.
        vision_width: D of the image side.
        vision_patch_size: Side of a patch.
        context_length: Most tokens of a text.
        vocab_size: Tokens that are known.
        transformer_width: D of the text side.
        transformer_layers: Blocks of the text side.
        num_frames: Most frames of a clip.
        **head: `prototypes`, `mask_kind`, `use_global`.
    """
    vision = {"resolution": image_resolution, "patch_size": vision_patch_size}
    video = ClipFrames(num_frames, embed_dim, width=vision_width, layers=vision_layers, **vision)
    text = ClipText(context_length, vocab_size, transformer_width, transformer_layers, embed_dim)
    sizes: dict[str, Any] = {"dim": embed_dim, "text_dim": 0, "embed_dim": embed_dim, "max_words": context_length}
    own: dict[str, Any] = {"pool": "end", "vocabulary": "clip", "is_gated": True, "temperature": 0.0}
    return _loaded(TMVM(video, text, **sizes, **own, **head), pretrained, pretrained_cfg)


def tmvm_lite(
    pretrained: bool = False,
    pretrained_cfg: Mapping[str, Any] | None = None,
    *,
    backbone: str = "tf_efficientnet_lite0",
    width: int = 256,
    depth: int = 2,
    num_heads: int = 4,
    num_frames: int = 8,
    img_size: int = 224,
    text: Mapping[str, Any] | None = None,
    embed_dim: int = 256,
    max_words: int = 64,
    **head: Any,
) -> TMVM:
    """A network of timm on each frame, and MiniLM for texts. Ours.

    Args:
        pretrained: Load weights.
        pretrained_cfg: Its "file" holds them.
        backbone: timm's name of the frame encoder.
        width: D.
        depth: Transformer layers along time.
        num_heads: Of those.
        num_frames: Most frames of a clip.
        img_size: Side of a frame.
        text: Fields of BERT's configuration that differ from MiniLM-L6's.
        embed_dim: E.
        max_words: Most tokens of a text.
        **head: `prototypes`, `mask_kind`, `use_global`, `temperature`.
    """
    video = FrameEncoder(backbone, width, depth, num_heads, num_frames, img_size)
    config = {**MINILM, **dict(text or {})}
    sizes = {"dim": width, "text_dim": config["hidden_size"], "embed_dim": embed_dim, "max_words": max_words}
    model = TMVM(video, bert(**config), pool="mean", vocabulary="bert", **sizes, **head)
    return _loaded(model, pretrained, pretrained_cfg)


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def tmvm_tiny(
    pretrained: bool = False,
    pretrained_cfg: Mapping[str, Any] | None = None,
    *,
    words: Sequence[str] = (),
    img_size: int = 64,
    patch_size: int = 8,
    width: int = 64,
    depth: int = 2,
    num_heads: int = 4,
    num_frames: int = 4,
    embed_dim: int = 64,
    max_words: int = 32,
    **head: Any,
) -> TMVM:
    """A small one of ours, for drawn people: the space-time transformer, and a vocabulary of words.

    Args:
        pretrained: Load weights.
        pretrained_cfg: Its "file" holds them.
        words: The vocabulary; by default that of the drawn people.
        img_size: Side of a frame.
        patch_size: Side of a patch.
        width: D, of both sides.
        depth: Blocks of the video encoder.
        num_heads: Of both sides.
        num_frames: Most frames of a clip.
        embed_dim: E.
        max_words: Most words of a text.
        **head: `prototypes`, `mask_kind`, `use_global`, `temperature`.
    """
    known = tuple(words) or WORDS
    video = SpaceTimeTransformer(img_size, patch_size, width, depth, num_heads, num_frames)
    text = WordEncoder(len(known) + 2, width, 1, num_heads, max_words)
    sizes: dict[str, Any] = {"dim": width, "text_dim": width, "embed_dim": embed_dim, "max_words": max_words}
    model = TMVM(video, text, pool="mean", vocabulary="words", words=known, **sizes, **head)
    return _loaded(model, pretrained, pretrained_cfg)


# what the sentences about drawn people are made of
WORDS = (
    *("a", "person", "in", "and", "trousers", "on"),
    *("red", "green", "blue", "yellow", "purple", "orange", "white", "black"),
    *("gray", "brown", "navy"),
    *("walks", "to", "the", "left", "right", "jumps", "up", "down", "waves", "hand"),
    *("bends", "stands", "spins", "around"),
    *("grass", "sand", "concrete", "snow"),
)
