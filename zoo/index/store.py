"""Where galleries live, by one protocol: a folder here, or a database at an address."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.index.exact import Hits
from zoo.index.facts import Facts
from zoo.index.gallery import Gallery

__all__ = ["Store", "open_or_create", "open_store"]


class Store(Protocol):
    """A gallery, wherever it is; what each call does stands in `zoo.index.gallery.Gallery`."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def facts(self) -> Facts:
        """What it was made with."""
        ...

    def __len__(self) -> int: ...

    def info(self) -> dict[str, Any]:
        """What is known about it, as plain JSON types."""
        ...

    def items(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row and item of all that count."""
        ...

    def take_items(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """What rows stand for."""
        ...

    def search(self, queries: Any, k: int) -> Hits:
        """The k best items of each query."""
        ...

    def append(self, vectors: Any, items: Sequence[Mapping[str, Any]], *, removing: ArrayLike = ()) -> None:
        """Add items, and take rows away."""
        ...

    def remove(self, rows: ArrayLike) -> None:
        """Let rows count no longer."""
        ...


def open_store(gallery: str, address: str | None = None) -> Store:
    """A gallery that is there.

    Args:
        gallery: A folder; with an address, the gallery's name in that database.
        address: `http://host:19530` or `https://...` for a Milvus server or cluster, a path that ends in `.db` for
            Milvus Lite. A password is read from ZOO_STORE_TOKEN, `user:password` or a key.

    Raises:
        UsageError: There is none, or no such kind of address.
        InputError: It cannot be read or does not answer.
        IntegrityError: It is damaged.
    """
    if address is None:
        return Gallery.open(Path(gallery))
    from zoo.index.milvus import MilvusGallery

    return MilvusGallery.open(_milvus(address), gallery)


def open_or_create(gallery: str, facts: Facts, address: str | None = None) -> Store:
    """A gallery made with these facts: the one that is there, or a new one.

    Args:
        gallery: As for `open_store`.
        facts: What its vectors are made with.
        address: As for `open_store`.

    Raises:
        UsageError: The one that is there was made with others; the message says in what they differ.
        InputError: It cannot be read, written or reached.
        IntegrityError: It is damaged.
    """
    if address is None:
        folder = Path(gallery)
        found: Store = Gallery.open(folder) if Gallery.is_at(folder) else Gallery.create(folder, facts)
    else:
        from zoo.index.milvus import MilvusGallery

        found = MilvusGallery.open_or_create(_milvus(address), gallery, facts)
    found.facts.require(facts, found.name)
    return found


def _milvus(address: str) -> str:
    if address.startswith(("http://", "https://", "tcp://")) or address.endswith(".db"):
        return address
    raise UsageError(
        f"--store {address} is no address of a database",
        hint="http://host:19530 for a Milvus server, or FILE.db for Milvus Lite",
    )
