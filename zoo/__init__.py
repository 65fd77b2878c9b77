"""A model zoo: names and cards without torch, networks through one door, and the same names in timm and torch.hub."""

import importlib
from typing import TYPE_CHECKING

from zoo.interop.timm_hook import install as _install_timm_hook

if TYPE_CHECKING:
    from zoo import metrics as metrics
    from zoo.build import create_model as create_model
    from zoo.layers.inference import optimize as optimize
    from zoo.registry.names import list_names as list_models
    from zoo.registry.names import resolve as card
    from zoo.tasks.filter import texture_filter as texture_filter
    from zoo.tasks.pipeline import pipeline as pipeline

__version__ = "0.1.0"

__all__ = ["card", "create_model", "list_models", "metrics", "optimize", "pipeline", "texture_filter"]

# public name -> module, or module:name. Nothing here is imported before it is asked for.
_PUBLIC = {
    "card": "zoo.registry.names:resolve",
    "create_model": "zoo.build:create_model",
    "list_models": "zoo.registry.names:list_names",
    "metrics": "zoo.metrics",
    "optimize": "zoo.layers.inference:optimize",
    "pipeline": "zoo.tasks.pipeline:pipeline",
    "texture_filter": "zoo.tasks.filter:texture_filter",
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = importlib.import_module(module)
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


_install_timm_hook()
