"""The one door from a name to a network."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CardError, IntegrityError, one_line
from zoo.hub.checkpoint import Contents, read_contents
from zoo.hub.fetch import weights_path
from zoo.registry.card import Card
from zoo.registry.names import resolve
from zoo.registry.timm_cfg import pretrained_cfg

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Faults",
    "builder_of",
    "check_file",
    "compare",
    "create_model",
    "packed_parts",
    "pretrained_cfg",
    "skeleton",
]

FOR_TIMM = ("features_only", "out_indices", "feature_cls", "pretrained_strict")  # wrapping and loading, not building
AGAIN = "convert or fetch the file again"
JSON_TYPES = (str, int, float, bool, list, dict, type(None))


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> "nn.Module":
    """The network of that name, in timm's conventions.

    A file's own arguments (its class count, its `act_bits`) come before the card's, and `kwargs` before both. A file is
    loaded whole or not at all; where `num_classes` or `in_chans` differ from the file's, timm makes a fresh head and
    adapts the first convolution.

    Args:
        name: `<arch>.<tag>`, a bare architecture, an alias, or `<arch>_<tag>`.
        pretrained: Load the checkpoint's weights.
        checkpoint_path: Load this safetensors file instead.
        cache_dir: Where to keep what is downloaded, in place of Hugging Face's cache.
        **kwargs: For the builder: `num_classes`, `in_chans`, `features_only`, `out_indices` and the network's own.

    Raises:
        UnknownName: Nothing answers to the name.
        WeightsUnavailable: Weights were asked for that nobody published, or that cannot be fetched.
        IntegrityError: The file is broken, or not of this network.
    """
    card = resolve(name)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}  # timm: None means the default
    cfg = pretrained_cfg(card)
    args = card.builder_args
    path = Path(checkpoint_path) if checkpoint_path else None
    if path is None and pretrained and card.weights.status != "none":
        path = weights_path(card, cache_dir=cache_dir)
    if path is not None:
        if not _is_taught(path):  # such a file is read, and checked, by the builder
            args = args | check_file(path, card, kwargs)
        cfg |= {"file": str(path), "num_classes": args.get("num_classes", 0)}
        cfg["input_size"] = (args.get("in_chans", card.input.size[0]), *card.input.size[1:])
    args = args | kwargs
    model = builder_of(card)(pretrained=path is not None, pretrained_cfg=cfg, **args)
    # timm.models.save_for_hf writes them into config.json
    model._model_args = args  # type: ignore[assignment]  # nn.Module declares every attribute a tensor or a module
    return model


def packed_parts(
    name: str, *, checkpoint_path: str | Path | None = None
) -> "tuple[nn.Module, dict[str, Tensor]] | None":
    """A network without values, and the packed tensors that fill it, as they lie in the file; None if there are none.

    For an engine that runs from bits: nothing is unpacked to float, the tensors are mapped into memory. Whether they
    fit is for the engine to check.

    Args:
        name: As for `create_model`.
        checkpoint_path: Read this file in place of the checkpoint's.

    Raises:
        UnknownName: Nothing answers to the name.
        WeightsUnavailable: The weights cannot be had.
        IntegrityError: The file is broken, or of another architecture.
    """
    from safetensors.torch import load_file

    from zoo.layers.packing import FORMAT

    card = resolve(name)
    if card.weights.status == "none":
        return None
    path = Path(checkpoint_path) if checkpoint_path else weights_path(card)
    contents = read_contents(path)
    if contents.facts.get("format") != FORMAT:
        return None
    return skeleton(card, card.builder_args | _file_args(path, contents, card)), load_file(path)


def builder_of(card: Card) -> "Callable[..., nn.Module]":
    """The function that a card's `builder` names.

    Raises:
        CardError: It cannot be imported.
    """
    module, _, function = card.builder.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise CardError(
            f"{card.name}: builder {card.builder} cannot be imported: {error}", hint="mend `builder:` in its card"
        ) from error


def skeleton(card: Card, args: Mapping[str, Any], *, parameters: int | None = None) -> "nn.Module":
    """The network on torch's meta device: names and shapes without memory or random numbers.

    Args:
        card: Its card.
        args: What to call the builder with.
        parameters: Refuse to make more than this many, for arguments that nobody vouches for.

    Raises:
        ValueError: There would be more.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from torch.overrides import TorchFunctionMode

    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if parameters is not None and made > parameters:
            raise ValueError(f"its arguments ask for more than {parameters} tensors")

    class WithoutNumbers(TorchFunctionMode):
        """Leaves initial values out: on the meta device, drawing them would import torch's compiler, for a second."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return args[0] if func in (torch.Tensor.normal_, torch.Tensor.uniform_) else func(*args, **(kwargs or {}))

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), WithoutNumbers():
            return builder_of(card)(pretrained=False, pretrained_cfg=pretrained_cfg(card), **args)
    finally:
        hook.remove()


class Faults(dict[str, list[str]]):
    """What keeps tensors from filling a network: kind of fault to keys. As text, one line, up to three keys a kind."""

    def __str__(self) -> str:
        return "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in self.items()
        )


def compare(state: "Mapping[str, Tensor]", model: "nn.Module") -> Faults:
    """What keeps a state from filling a network completely; empty when nothing does.

    Kinds: "missing", "unexpected", "of another shape", "of another type" (a float in place of an integer or the other
    way round; the width of floats is free) and "not finite".
    """
    expected = model.state_dict()
    both = [key for key in expected if key in state]
    found = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
            for key in both
            if state[key].shape != expected[key].shape
        ],
        "of another type": [
            f"{key} {state[key].dtype}"
            for key in both
            if (state[key].is_floating_point(), state[key].is_complex())
            != (expected[key].is_floating_point(), expected[key].is_complex())
        ],
        "not finite": [key for key in both if state[key].is_floating_point() and not state[key].isfinite().all()],
    }
    return Faults({kind: keys for kind, keys in found.items() if keys})


def check_file(path: Path, card: Card, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a file was made with, once it is known to fill their network.

    The file is read twice, here and by timm; both times mapped, not copied. timm alone would load a part of it silently
    whenever the head is fresh.

    Args:
        path: The file; it is not trusted.
        card: Of the network.
        kwargs: What it is to be built with besides.

    Raises:
        WeightsUnavailable: There is no such file.
        InputError: It cannot be opened.
        IntegrityError: It is broken, or not of this network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from zoo.layers.packing import FORMAT, unpack

    contents = read_contents(path)
    if path.suffix != ".safetensors":  # timm goes by the suffix and would unpickle the rest
        raise IntegrityError(f"{path} is not called .safetensors", hint="rename it")
    args = _file_args(path, contents, card)
    layout = contents.facts.get("format", "float")
    if layout not in ("float", FORMAT):
        raise IntegrityError(f"{path} has the format {layout!r}, which this version does not know", hint="update zoo")
    own = {
        key: value
        for key, value in kwargs.items()
        if key not in (*FOR_TIMM, "num_classes", "in_chans") and not key.startswith("pretrained_")
    }
    most = 2 * len(contents.shapes) + 100  # a builder may make a head twice, of which one stays
    try:
        model = skeleton(card, card.builder_args | args, parameters=most)
        state = unpack(load_file(path), model)
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(f"{path} does not fit {card.architecture}: {one_line(error)}", hint=AGAIN) from error
    faults = compare(state, skeleton(card, card.builder_args | args | own, parameters=most) if own else model)
    if faults:
        raise IntegrityError(f"{path} does not fit {card.architecture}: {faults}", hint=AGAIN)
    return args


def _is_taught(path: Path) -> bool:
    """Whether a file is a taught model's, which names its extractor and need not hold it."""
    return str(read_contents(path).facts.get("format", "")).startswith("taught-")


def _file_args(path: Path, contents: Contents, card: Card) -> dict[str, Any]:
    """Builder arguments in a file's metadata; in a file without, those that its first convolution and its head show."""
    facts = contents.facts
    if facts.get("architecture", card.architecture) != card.architecture:
        made_for = facts["architecture"]
        raise IntegrityError(f"{path} is a {made_for}, not a {card.architecture}", hint=f"ask for {made_for}")
    args = facts.get("builder_args", {})
    if not isinstance(args, dict) or any(
        key.startswith("pretrained") or key in FOR_TIMM or not isinstance(value, JSON_TYPES)
        for key, value in args.items()
    ):
        raise IntegrityError(f"{path} has builder arguments that are none: {args}", hint="convert the file again")
    shapes = contents.shapes
    seen = {}
    head, stem = shapes.get(f"{card.traits.classifier}.weight"), shapes.get(f"{card.traits.first_conv}.weight")
    if head and "num_classes" in card.builder_args:
        seen["num_classes"] = head[0]
    if stem and len(stem) == 4:
        seen["in_chans"] = stem[1]
    return {**seen, **args}
