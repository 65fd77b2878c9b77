"""Our classifiers and backbones in timm: one entry point an architecture and one an alias, made from the cards."""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from zoo.build import builder_of, create_model
from zoo.registry.card import Card
from zoo.registry.names import list_names, load_card, resolve
from zoo.registry.timm_cfg import pretrained_cfg

if TYPE_CHECKING:
    from timm.models import DefaultCfg
    from torch import nn

__all__ = ["register"]

TASKS = ("classify", "embed")  # what timm calls a model: an image in, logits or features out
SOURCES = ("file", "url", "hf_hub_id", "state_dict")

default_cfgs: "dict[str, DefaultCfg]" = {}  # timm looks for this name in the module of a registered function


def register() -> None:
    """Hand every architecture to timm. Names that timm has already stay as they are."""
    from timm.models import PretrainedCfg, generate_default_cfgs, is_model, register_model

    cards = [card for card in map(load_card, list_names()) if card.task in TASKS]
    names = {name: card for card in cards for name in _names_in_timm(card) if not is_model(name)}
    tagged: dict[str, dict[str, Any] | PretrainedCfg] = {
        f"{name}.{card.tag}{'*' if card.default else ''}": pretrained_cfg(card)  # timm takes the star for the default
        for name in names
        for card in cards
        if name in _names_in_timm(card)
    }
    default_cfgs.update(generate_default_cfgs(tagged))
    for name, card in names.items():
        register_model(_entry_point(name, card))


def _names_in_timm(card: Card) -> Iterator[str]:
    yield card.architecture
    yield from (alias for alias in card.aliases if alias.isidentifier())


def _entry_point(name: str, card: Card) -> "Callable[..., nn.Module]":
    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> "nn.Module":
        overlay = pretrained_cfg_overlay or {}
        if isinstance(pretrained_cfg, dict) or is_dataclass(pretrained_cfg) or any(overlay.get(key) for key in SOURCES):
            # somebody's own weights, such as hf-hub: or local-dir:, are between timm and the builder
            return builder_of(card)(
                pretrained=pretrained,
                pretrained_cfg=pretrained_cfg,
                pretrained_cfg_overlay=pretrained_cfg_overlay,
                cache_dir=cache_dir,
                **kwargs,
            )
        if overlay:
            kwargs["pretrained_cfg_overlay"] = overlay
        return create_model(_checkpoint(name, pretrained_cfg), pretrained, cache_dir=cache_dir, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = card.summary
    return entry


def _checkpoint(name: str, tag: str | None) -> str:
    """`<arch>.<tag>` for what timm split into a name, perhaps an alias, and a tag.

    Raises:
        RuntimeError: No such tag, in timm's words.
    """
    from timm.models import get_pretrained_cfg

    if not tag:
        return name
    get_pretrained_cfg(f"{name}.{tag}")
    return f"{resolve(name).architecture}.{tag}"
