"""Pages of the API reference: the public names first, then every room."""

import importlib
import pkgutil

import zoo

__all__ = ["public_page", "room_page", "rooms"]


def rooms() -> list[str]:
    """Packages and files directly below `zoo`."""
    return sorted(module.name for module in pkgutil.iter_modules(zoo.__path__) if module.name != "__main__")


def public_page() -> str:
    """Markdown for what `import zoo` offers."""
    parts = ["# Python", "Imported when asked for: `import zoo` itself loads neither torch nor timm."]
    for name in sorted(zoo.__all__):
        value = getattr(zoo, name)
        if not callable(value):
            parts.append(f"## zoo.{name}\n\nSee [the room of that name](api/{name}.md).")
            continue
        function = f".. autofunction:: {value.__module__}.{value.__name__}\n   :no-index:"
        parts.append(f"## zoo.{name}\n\n```{{eval-rst}}\n{function}\n```")
    parts.append(
        "## Every room\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(f"api/{room}" for room in rooms()) + "\n```"
    )
    return "\n\n".join(parts) + "\n"


def room_page(room: str) -> str:
    """Markdown for one room, file by file; a file whose extra is not installed is named only."""
    parts = [f"# zoo.{room}"]
    module = importlib.import_module(f"zoo.{room}")
    names = [module.__name__]
    if hasattr(module, "__path__"):
        names = [found.name for found in pkgutil.walk_packages(module.__path__, f"zoo.{room}.")]
    for name in names:
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            parts.append(f"## {name}\n\nIts extra is not installed where these pages were made: {error}.")
            continue
        if getattr(found, "__all__", None):
            parts.append(
                f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :no-undoc-members:\n```"
            )
    return "\n\n".join(parts) + "\n"
