"""Label lists: one text file a list, one class a line, in the order of the network's outputs."""

from functools import cache
from pathlib import Path

from zoo.errors import UnknownName

__all__ = ["label_names"]

FOLDER = Path(__file__).parent


@cache
def label_names(labels: str) -> tuple[str, ...]:
    """Class names in the order of the outputs.

    Args:
        labels: Name of the list, such as "imagenet-1k"; a card's `labels`.

    Raises:
        UnknownName: No such list.
    """
    lists = {path.stem: path for path in FOLDER.glob("*.txt")}
    if labels not in lists:
        raise UnknownName(f"no label list {labels!r}", hint=f"one of {', '.join(sorted(lists))}")
    return tuple(lists[labels].read_text(encoding="utf-8").splitlines())
