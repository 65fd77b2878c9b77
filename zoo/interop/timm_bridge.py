"""Our classifiers and backbones in timm: one entry point an architecture and one an alias, made from the cards."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.build import builder_of, check_file, create_model
from zoo.errors import IntegrityError
from zoo.hub.fetch import FILE
from zoo.hub.remote import fetch_file
from zoo.registry.card import Card
from zoo.registry.names import list_names, load_card, resolve
from zoo.registry.timm_cfg import IN_TIMM, pretrained_cfg

if TYPE_CHECKING:
    from timm.models import DefaultCfg
    from torch import nn

__all__ = ["register"]

SOURCES = ("file", "url", "hf_hub_id", "state_dict")

default_cfgs: "dict[str, DefaultCfg]" = {}  # timm looks for this name in the module of a registered function


def register() -> None:
    """Hand every architecture to timm. Names that timm has already stay as they are."""
    from timm.models import PretrainedCfg, generate_default_cfgs, is_model, register_model

    cards = [card for card in map(load_card, list_names()) if card.task in IN_TIMM]
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
            if pretrained and pretrained_cfg:
                cfg = pretrained_cfg if isinstance(pretrained_cfg, dict) else asdict(pretrained_cfg)
                _check_source(card, cfg, cache_dir, kwargs)
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


def _check_source(card: Card, cfg: Mapping[str, Any], cache_dir: str | None, kwargs: Mapping[str, Any]) -> None:
    """Refuse a repository or a folder whose file does not fill the network that its config.json asks for.

    timm would take a pickle where there is no safetensors file, and memory for any number of classes.

    Raises:
        WeightsUnavailable: There is no safetensors file, or it cannot be fetched.
        IntegrityError: It is broken, or of another network.
    """
    if cfg.get("source") == "local-dir":
        path = Path(cfg["file"], FILE)
    elif cfg.get("source") == "hf-hub":
        repository, _, revision = cfg["hf_hub_id"].partition("@")
        path = fetch_file(repository, FILE, revision=revision or None, cache_dir=cache_dir)
    else:
        return
    args = check_file(path, card, kwargs)
    said = {"num_classes": cfg.get("num_classes"), "in_chans": next(iter(cfg.get("input_size") or ()), None)}
    said |= {key: value for key, value in (kwargs.get("pretrained_model_args") or {}).items() if key in said}
    for key, value in said.items():
        if kwargs.get(key, value) == value and args.get(key, value) != value:  # else the caller wants another one
            raise IntegrityError(f"{path} has {args[key]} {key}, its config.json says {value}", hint="get both again")


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
