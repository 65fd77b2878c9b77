"""A gallery in a Milvus database: the same calls as for a folder, spread over as many machines as the database has.

A collection holds one entity a vector: the number of its item, which of the item's vectors it is, the vector, and at
the first one the item itself. A second collection, `<name>_facts`, holds what the gallery was made with. Milvus Lite,
a file beside the caller, speaks the same protocol.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from zoo import settings
from zoo.errors import InputError, UsageError
from zoo.extras import need
from zoo.index.exact import NOTHING, Hits
from zoo.index.facts import Facts
from zoo.index.vectors import narrowed, queries_of

__all__ = ["MilvusGallery"]

BATCH = 512  # items sent, or asked for, at once
QUERIES = 32  # searched at once
MOST = 16384  # answers that Milvus gives to one query
SECONDS = 20.0  # to wait for an answer
TICKS = 4096  # items that get their number in the same microsecond


class MilvusGallery:
    """An open collection.

    `MilvusGallery.create` and `MilvusGallery.open` make one.

    Args:
        client: The connection.
        address: Where the database is, for errors.
        collection: Its name.
        facts: What it was made with.
    """

    def __init__(self, client: Any, address: str, collection: str, facts: Facts) -> None:
        self.client = client
        self.address = address
        self.collection = collection
        self.facts = facts

    @classmethod
    def create(cls, address: str, collection: str, facts: Facts) -> "MilvusGallery":
        """A new, empty collection.

        Raises:
            UsageError: There is one of that name, or pymilvus is missing, or Milvus does not take the name.
            InputError: The database does not answer.
        """
        client = _connect(address)
        from pymilvus import DataType

        with _answering(address):
            if client.has_collection(_named(collection)):
                raise UsageError(f"{address} has a collection {collection}", hint="choose another name for the gallery")
            if client.has_collection(f"{collection}_facts"):
                client.drop_collection(f"{collection}_facts")  # what a creation that was interrupted left
            about = client.create_schema(auto_id=True)
            about.add_field("key", DataType.INT64, is_primary=True)
            about.add_field("facts", DataType.JSON)
            about.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus wants one in every collection
            _make(client, f"{collection}_facts", about)
            row = {"facts": msgspec.to_builtins(facts), "vector": [0.0, 0.0]}
            client.insert(f"{collection}_facts", [row])
            schema = client.create_schema(auto_id=True)
            schema.add_field("key", DataType.INT64, is_primary=True)
            schema.add_field("row", DataType.INT64)
            schema.add_field("prototype", DataType.INT64)
            schema.add_field("item", DataType.JSON)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=facts.dim)
            _make(client, collection, schema)  # last: the gallery is there from here on
        return cls(client, address, collection, facts)

    @classmethod
    def open_or_create(cls, address: str, collection: str, facts: Facts) -> "MilvusGallery":
        """The collection of that name, made if it is missing; whether its facts are these is for the caller to check.

        Raises:
            UsageError: pymilvus is missing, or Milvus does not take the name.
            InputError: The database does not answer.
        """
        client = _connect(address)
        with _answering(address):
            is_there = client.has_collection(_named(collection))
        client.close()
        return cls.open(address, collection) if is_there else cls.create(address, collection, facts)

    @classmethod
    def open(cls, address: str, collection: str) -> "MilvusGallery":
        """A collection that is there.

        Raises:
            UsageError: There is none, or pymilvus is missing.
            InputError: The database does not answer.
        """
        client = _connect(address)
        with _answering(address):
            if not client.has_collection(_named(collection)):
                raise UsageError(
                    f"{address} has no gallery {collection}",
                    hint=f"make one: zoo reid index FOLDER --gallery {collection} --store {address}",
                )
            client.load_collection(collection)
            found = client.query(f"{collection}_facts", filter="key >= 0", output_fields=["facts"], limit=1)
        if not found:
            raise UsageError(f"{address} has {collection}, which is no gallery of zoo's", hint="choose another name")
        return cls(client, address, collection, msgspec.convert(found[0]["facts"], Facts))

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.collection} at {self.address}"

    def __len__(self) -> int:
        with _answering(self.address):
            found = self.client.query(self.collection, filter="prototype == 0", output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def __repr__(self) -> str:
        return f"MilvusGallery({self.name}: {len(self)} items by {self.facts.model})"

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()

    def info(self) -> dict[str, Any]:
        """What is known about it, as plain JSON types."""
        about = {**msgspec.to_builtins(self.facts), "dtype": "float32", "items": len(self)}
        return {**about, "store": self.address, "collection": self.collection}

    def items(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row and item of all, in order of their rows."""
        with _answering(self.address):
            pages = self.client.query_iterator(
                self.collection, batch_size=BATCH, filter="prototype == 0", output_fields=["row", "item"]
            )
            found = []
            while page := pages.next():
                found += [(int(entity["row"]), dict(entity["item"])) for entity in page]
            pages.close()
        yield from sorted(found, key=lambda pair: pair[0])

    def take_items(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """What rows stand for, in their order."""
        found: dict[int, dict[str, Any]] = {}
        with _answering(self.address):
            for start in range(0, len(rows), BATCH):
                wanted = [int(row) for row in rows[start : start + BATCH]]
                which = f"prototype == 0 and row in {wanted}"
                entities = self.client.query(self.collection, filter=which, output_fields=["row", "item"])
                found |= {int(entity["row"]): dict(entity["item"]) for entity in entities}
        return [found[row] for row in rows]

    def search(self, queries: Any, k: int) -> Hits:
        """The k best items of each query, by the largest inner product with any of an item's vectors.

        The database answers with vectors; the best k times K of them hold the best k items.

        Args:
            queries: (Q, D) tensor or array of floats.
            k: Items wanted.

        Raises:
            ValueError: Another shape, a number that is not finite, or a k below 1.
            UsageError: More answers than Milvus gives.
        """
        wanted = queries_of(queries, self.facts.dim, k).numpy()
        most = k * self.facts.per_item
        if most > MOST:
            raise UsageError(f"Milvus gives {MOST} answers at most, not {most}", hint="ask for fewer")
        rows = np.full((len(wanted), k), NOTHING)
        scores = np.full((len(wanted), k), -np.inf, np.float32)
        prototypes = np.zeros((len(wanted), k), np.int64)
        for start in range(0, len(wanted), QUERIES):
            with _answering(self.address):
                answers = self.client.search(
                    self.collection,
                    data=list(wanted[start : start + QUERIES]),
                    limit=most,
                    output_fields=["row", "prototype"],
                    consistency_level="Strong",
                )
            for i, answer in enumerate(answers, start):
                for place, (score, row, prototype) in enumerate(_best_of_each(answer)[:k]):
                    rows[i, place], scores[i, place], prototypes[i, place] = row, score, prototype
        return Hits(rows, scores, prototypes)

    def append(self, vectors: Any, items: Sequence[Mapping[str, Any]], *, removing: ArrayLike = ()) -> None:
        """Add items, then take rows away.

        Milvus has no step that does both: who is interrupted between them finds old and new, and indexes again.

        Args:
            vectors: (n, K, D), or (n, D) where K is 1; rounded to float16, so that scores equal a folder's.
            items: n objects of JSON types.
            removing: Rows that these items replace.

        Raises:
            ValueError: Shapes that do not fit, or numbers that float16 does not hold.
            InputError: The database does not answer.
        """
        added = narrowed(vectors, len(items), self.facts).float().numpy()
        for start in range(0, len(items), BATCH):
            numbers = _next_rows(len(items[start : start + BATCH]))
            entities = [
                {"row": row, "prototype": j, "item": dict(item) if j == 0 else {}, "vector": vector}
                for row, item, several in zip(
                    numbers, items[start : start + BATCH], added[start : start + BATCH], strict=True
                )
                for j, vector in enumerate(several)
            ]
            with _answering(self.address):
                self.client.insert(self.collection, entities)
        self.remove(removing)

    def remove(self, rows: ArrayLike) -> None:
        """Take rows away.

        Raises:
            InputError: The database does not answer.
        """
        gone = np.asarray(rows, np.int64).tolist()
        for start in range(0, len(gone), BATCH):
            with _answering(self.address):
                self.client.delete(self.collection, filter=f"row in {gone[start : start + BATCH]}")


def _connect(address: str) -> Any:
    need("store", "--store")
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it logs is raised, too
    with _answering(address):
        return MilvusClient(address, token=settings.store_token() or "", timeout=SECONDS)


@contextmanager
def _answering(address: str) -> Iterator[None]:
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = " ".join(str(error.message).split())[:200]
        raise InputError(f"{address}: {reason}", hint="check the address, and that Milvus runs there") from None


def _make(client: Any, name: str, schema: Any) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")  # exact, as a folder's search is
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _named(collection: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w{0,200}", collection, re.ASCII):
        raise UsageError(
            f"Milvus takes no collection called {collection!r}", hint="letters, digits and _ make the gallery's name"
        )
    return collection


def _best_of_each(answer: Any) -> list[tuple[float, int, int]]:
    """Score, row and winning prototype of each item among the vectors found; best first, then by row."""
    best: dict[int, tuple[float, int]] = {}
    for found in answer:
        row, prototype = int(found["entity"]["row"]), int(found["entity"]["prototype"])
        mine = (float(found["distance"]), -prototype)
        best[row] = max(mine, best.get(row, mine))
    ordered = sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))
    return [(score, row, -prototype) for row, (score, prototype) in ordered]


_last_row = 0


def _next_rows(count: int) -> range:
    """Numbers that rise from call to call and from process to process: the time, in parts of a microsecond."""
    global _last_row
    first = max(time.time_ns() // 1000 * TICKS, _last_row + 1)
    _last_row = first + count - 1
    return range(first, first + count)
