"""Networks of timm's, called `timm:NAME` wherever one of ours could stand as well."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import IntegrityError, UnknownName, WeightsUnavailable, one_line
from zoo.hub.checkpoint import read_contents
from zoo.registry.card import Input
from zoo.registry.names import resolve

if TYPE_CHECKING:
    from torch import nn

__all__ = ["architecture_of", "is_timms", "timm_input", "timm_network"]

PREFIX = "timm:"


def is_timms(name: str) -> bool:
    """Whether a name is timm's."""
    return name.startswith(PREFIX)


def timm_input(name: str) -> Input:
    """Preprocessing of a network of timm's.

    Raises:
        UnknownName: timm has no such network.
    """
    cfg = _cfg(name)
    return Input(
        size=tuple(cfg.input_size),
        mean=tuple(map(float, cfg.mean)),
        std=tuple(map(float, cfg.std)),
        interpolation=cfg.interpolation or "bicubic",
        crop_pct=cfg.crop_pct or 0.875,
        crop_mode="squash" if cfg.crop_mode == "squash" else "center",
        fixed_size=cfg.fixed_input_size,
    )


def timm_network(
    name: str, *, pretrained: bool = False, checkpoint_path: str | Path | None = None, **kwargs: Any
) -> "nn.Module":
    """A network of timm's; one from a file has as many classes as the file, where nobody says otherwise.

    Args:
        name: "timm:" and timm's name, with or without a tag.
        pretrained: Load the weights that timm knows.
        checkpoint_path: Load this safetensors file instead.
        **kwargs: For timm's builder.

    Raises:
        UnknownName: timm has no such network.
        WeightsUnavailable: Its weights cannot be had.
        IntegrityError: The file is of another kind.
        TypeError: Arguments that the network does not take.
    """
    import timm

    cfg = _cfg(name)
    own = name.removeprefix(PREFIX)
    if checkpoint_path is None and not pretrained:
        return timm.create_model(own, **kwargs)
    if checkpoint_path and Path(checkpoint_path).suffix != ".safetensors":  # timm would unpickle another
        raise IntegrityError(f"{checkpoint_path} is not called .safetensors", hint="only those are loaded")
    try:
        overlay = _of_file(Path(checkpoint_path), cfg) if checkpoint_path else None
        return timm.create_model(own, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    except TypeError:
        raise
    except Exception as error:  # the network, the Hub and timm's loader raise what they like
        raise WeightsUnavailable(
            f"the weights of {name} cannot be had: {one_line(error)}",
            hint="fetch them where there is a network (HF_HOME is where they lie), or name a .safetensors file of them",
        ) from None


def architecture_of(name: str) -> str:
    """What files made of a network call it: timm's name, or ours before the dot."""
    return name.removeprefix(PREFIX) if is_timms(name) else resolve(name).architecture


def _of_file(path: Path, cfg: Any) -> dict[str, Any]:
    """What a file puts in the place of timm's facts; the head of another number of classes timm would throw away."""
    overlay: dict[str, Any] = {"file": str(path), "hf_hub_id": None, "url": None}
    heads = [cfg.classifier] if isinstance(cfg.classifier, str) else cfg.classifier or ()
    shapes = read_contents(path).shapes
    for shape in (shapes.get(f"{head}.weight") for head in heads):
        if shape:
            overlay["num_classes"] = shape[0]
    return overlay


def _cfg(name: str) -> Any:
    """Timm's facts of a network.

    Raises:
        UnknownName: There is none.
    """
    import timm

    own = name.removeprefix(PREFIX)
    architecture = own.partition(".")[0]
    cfg = timm.get_pretrained_cfg(own) if timm.is_model(architecture) else None
    if cfg is None:
        near = timm.list_models(f"*{architecture[:6]}*")[:3]
        raise UnknownName(f"timm has no model {own!r}", hint=f"perhaps {', '.join(near) or 'see timm.list_models()'}")
    return cfg
