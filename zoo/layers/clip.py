"""CLIP's image and text transformers, with OpenAI's names of tensors and the tokens of the last layer at hand.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020, and its
released code. B inputs, L tokens, D width, E dimensions shared by both sides.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ClipText", "ClipVision"]


class WideNorm(nn.LayerNorm):
    """Layer norm computed in float32 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (value.float() for value in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """The approximation that the published weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = WideNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = WideNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class ClipVision(nn.Module):
    """CLIP's vision transformer.

    Args:
        resolution: Side of a picture.
        patch_size: Side of a patch.
        width: D, in heads of 64.
        layers: Blocks.
        embed_dim: E.
    """

    def __init__(self, resolution: int, patch_size: int, width: int, layers: int, embed_dim: int) -> None:
        super().__init__()
        side = resolution // patch_size
        self.grid = side, side
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + side * side, width))
        self.ln_pre = WideNorm(width)
        self.transformer = Transformer(width, layers, width // 64)
        self.ln_post = WideNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, 1 + n, E): the class token's answer, then the patches' through the same head.

        Raises:
            ValueError: Another size.
        """
        x = self.conv1(images).flatten(2).transpose(1, 2)  # (B, n, D)
        if x.shape[1] + 1 != len(self.positional_embedding):
            raise ValueError(f"{len(self.positional_embedding) - 1} patches are needed; these are {x.shape[1]}")
        x = torch.cat((self.class_embedding.expand(x.shape[0], 1, -1), x), 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))) @ self.proj


class ClipText(nn.Module):
    """CLIP's text transformer, in which a token sees those before it.

    Args:
        context_length: Most tokens of a text.
        vocab_size: Tokens that are known.
        width: D, in heads of 64.
        layers: Blocks.
        embed_dim: E.
    """

    def __init__(self, context_length: int, vocab_size: int, width: int, layers: int, embed_dim: int) -> None:
        super().__init__()
        self.transformer = Transformer(width, layers, width // 64)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = WideNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) tokens with markers, padded with 0 -> (B, E), read at the end marker, which has the highest number.

        Raises:
            ValueError: More tokens than places.
        """
        length = ids.shape[1]
        if length > len(self.positional_embedding):
            raise ValueError(f"{length} tokens; {len(self.positional_embedding)} fit")
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        future = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        x = self.ln_final(self.transformer(x, future))
        return x[torch.arange(x.shape[0], device=ids.device), ids.argmax(1)] @ self.text_projection
