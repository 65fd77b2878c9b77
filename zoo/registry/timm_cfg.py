"""The card as timm's pretrained cfg: plain data, so that publishing and listing need no timm."""

from typing import Any

from zoo import settings
from zoo.registry.card import Card

__all__ = ["IN_TIMM", "pretrained_cfg"]

IN_TIMM = ("classify", "embed")  # tasks of what timm calls a model: an image in, logits or features out


def pretrained_cfg(card: Card) -> dict[str, Any]:
    """Fields of `timm.models.PretrainedCfg` that a card knows.

    A source is named only where there are weights: `file` for bundled ones, `hf_hub_id` for published ones. timm shows
    the rest as untrained.
    """
    cfg: dict[str, Any] = {
        "architecture": card.architecture,
        "tag": card.tag,
        "num_classes": card.builder_args.get("num_classes", 0),
        "input_size": card.input.size,
        "fixed_input_size": card.input.fixed_size,
        "interpolation": card.input.interpolation,
        "crop_pct": card.input.crop_pct,
        "crop_mode": card.input.crop_mode,
        "mean": card.input.mean,
        "std": card.input.std,
        "first_conv": card.traits.first_conv,
        "classifier": card.traits.classifier,
        "license": card.license,
        "description": card.summary,
    }
    if card.paper:
        cfg["paper_name"] = card.paper.title
        cfg["paper_ids"] = f"arXiv:{card.paper.arxiv}" if card.paper.arxiv else None
    if card.weights.status == "bundled":
        cfg["file"] = str(settings.bundled_weights() / f"{card.name}.safetensors")
    elif card.weights.status == "published":
        cfg["hf_hub_id"] = f"{settings.hub_org()}/{card.name}"
    return cfg
