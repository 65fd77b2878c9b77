"""Text encoders: DistilBERT, BERT and RoBERTa as the library transformers builds them, and a small one of ours.

transformers is the extra `text`; it is imported when an encoder of its is built, and nothing is ever fetched: encoders
start from random weights, and a checkpoint fills them. B texts of L tokens, D width.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

from zoo.extras import need

__all__ = ["WordEncoder", "bert", "distilbert", "roberta", "sentence"]


def distilbert(**config: Any) -> nn.Module:
    """DistilBERT; by default the 66 million parameters of the published uncased one.

    Args:
        **config: Fields of `transformers.DistilBertConfig`.

    Returns:
        A network called with `input_ids` and `attention_mask`, both (B, L), whose answer's `last_hidden_state` is
        (B, L, D). Its keys are Hugging Face's, without a prefix.

    Raises:
        UsageError: transformers is not installed.
    """
    return _transformers("DistilBertConfig", "DistilBertModel", config)


def bert(**config: Any) -> nn.Module:
    """BERT without its pooler, as `distilbert`; the MiniLM encoders are BERTs of 6 or 12 layers of width 384."""
    return _transformers("BertConfig", "BertModel", config, add_pooling_layer=False)


def roberta(**config: Any) -> nn.Module:
    """RoBERTa, as `distilbert`; by default the published base with its pooler, which nothing here asks for."""
    base = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return _transformers("RobertaConfig", "RobertaModel", base | config)


def _transformers(config_name: str, model_name: str, fields: dict[str, Any], **options: Any) -> nn.Module:
    need("text", "this network's text encoder")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    config = getattr(transformers, config_name)(**fields)
    return getattr(transformers, model_name)(config, **options)


def sentence(hidden: Tensor, mask: Tensor, pool: str) -> Tensor:
    """One vector a text.

    Args:
        hidden: (B, L, D) of the last layer.
        mask: (B, L), true where a token is.
        pool: "first" takes the first token's, "mean" the mean over the tokens.

    Returns:
        (B, D).
    """
    if pool == "first":
        return hidden[:, 0]
    share = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * share).sum(1) / share.sum(1).clamp(min=1)


class WordEncoder(nn.Module):
    """A small encoder of ours: word and place embeddings, pre-norm transformer layers, a norm.

    Args:
        vocab_size: Words that are known; 0 is padding.
        embed_dim: D.
        depth: Layers.
        num_heads: Of each layer.
        max_tokens: Longest text.
    """

    def __init__(
        self, vocab_size: int, embed_dim: int = 64, depth: int = 1, num_heads: int = 4, max_tokens: int = 32
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, embed_dim, padding_idx=0)
        self.places = nn.Parameter(torch.zeros(max_tokens, embed_dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embed_dim, num_heads, 4 * embed_dim, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) numbers of words and where they are -> (B, L, D)."""
        x = self.words(ids) + self.places[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return self.norm(x)
