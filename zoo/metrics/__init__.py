"""Figures that papers report: arrays in, numbers out. Each is imported when it is first asked for."""

import importlib

# public name -> the file beside this one that has it
_PUBLIC = {"reid_scores": "reid", "rerank": "rerank", "tpr_at_fpr": "verification"}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo.metrics' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo.metrics.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
