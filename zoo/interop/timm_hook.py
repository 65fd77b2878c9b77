"""Lets timm know our names once both packages are imported, in either order, without importing timm for it."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install"]


def install() -> None:
    """Register with timm at once if it is loaded, else right after somebody imports it."""
    if getattr(sys.modules.get("timm"), "create_model", None):
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds nothing itself: it lets timm be found and loaded as ever, and registers behind that."""

    _searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec("timm")
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def then_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)  # here, not above: torch.hub calls find_spec without importing
            _register()

        spec.loader.exec_module = then_register  # type: ignore[method-assign]  # this loader serves this one import
        return spec


def _register() -> None:
    from zoo.interop.timm_bridge import register

    register()
