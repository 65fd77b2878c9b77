"""What was found for a query in a gallery: people for a picture, clips for a sentence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

    from zoo.viz.ranking import Cell, Mark, Row

__all__ = ["Hit", "Ranking", "page"]


@dataclass(frozen=True, eq=False)
class Hit:
    """One answer.

    Attributes:
        rank: Its place, from 1.
        path: The file.
        score: Similarity, larger is nearer; no probability.
        start: Where in a video it begins, in seconds.
        end: Where it ends.
        peak: The moment that matched best.
        prototype: Which of the item's vectors matched, where it has several.
        label: Who or what it shows, where known.
        camera: Which camera saw it.
        modality: "visible" or "infrared".
        is_right: Whether it shows what was looked for; None where nobody knows.
        more: What else a task knows, of JSON types.
        picture: Gives its RGB picture, for drawing.
        media: Address of what a page plays in place of the file, such as a part of it in a form that browsers know.
    """

    rank: int
    path: str
    score: float
    start: float | None = None
    end: float | None = None
    peak: float | None = None
    prototype: int | None = None
    label: str | None = None
    camera: str | None = None
    modality: str | None = None
    is_right: bool | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    picture: "Callable[[], Image] | None" = None
    media: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not known is left out."""
        known = {
            "start": self.start,
            "end": self.end,
            "peak": self.peak,
            "prototype": self.prototype,
            "label": self.label,
            "camera": self.camera,
            "modality": self.modality,
            "is_right": self.is_right,
        }
        row = {"rank": self.rank, "path": self.path, "score": round(self.score, 6)}
        return row | {key: value for key, value in known.items() if value is not None} | dict(self.more)


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """The best answers to one query, best first; none when the query could not be used, and `error` says why.

    Attributes:
        query: A path, a sentence, or what stands for a picture in memory.
        hits: Answers, scores falling.
        label: Who or what the query shows, where known.
        camera: Which camera saw it.
        modality: "visible" or "infrared".
        searched: Items of the gallery.
        note: What a reader must know.
        error: Why there is no answer.
        picture: Gives the query's RGB picture; None for a sentence.
    """

    query: str
    hits: tuple[Hit, ...] = ()
    label: str | None = None
    camera: str | None = None
    modality: str | None = None
    searched: int | None = None
    note: str | None = None
    error: ZooError | None = None
    picture: "Callable[[], Image] | None" = None

    def __post_init__(self) -> None:
        scores = [hit.score for hit in self.hits]
        if any(not a >= b for a, b in pairwise(scores)):  # false for NaN as well
            raise ValueError(f"scores fall, got {scores}")
        if [hit.rank for hit in self.hits] != list(range(1, len(self.hits) + 1)):
            raise ValueError(f"ranks count from 1, got {[hit.rank for hit in self.hits]}")
        if self.error is not None and self.hits:
            raise ValueError("a ranking with an error has no hits")

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, place: int) -> Hit:
        """One answer; 0 is the best."""
        return self.hits[place]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __repr__(self) -> str:
        if self.error:
            return f"Ranking({self.query}: {self.error})"
        best = ", ".join(f"{PurePath(hit.path).name} {hit.score:.3f}" for hit in self.hits[:3])
        return f"Ranking({self.query}: {best}{', …' if len(self) > 3 else ''})"

    @property
    def source(self) -> str:
        """The query, as results of other tasks call it."""
        return self.query

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: query, what is known of it, hits, searched, note, error."""
        known = {"label": self.label, "camera": self.camera, "modality": self.modality}
        return {
            "query": self.query,
            **{key: value for key, value in known.items() if value is not None},
            "hits": [hit.to_dict() for hit in self.hits],
            "searched": self.searched,
            "note": self.note,
            "error": self.error and self.error.to_dict(),
        }

    def draw(self, *, columns: int | None = None) -> "Image":
        """The query and its answers as a sheet of framed pictures; a picture that is gone leaves its place empty.

        Args:
            columns: Pictures beside each other.

        Raises:
            ZooError: This ranking is an error.
        """
        from zoo.viz.ranking import ranking_sheet

        return ranking_sheet(self._row(), columns=columns)

    def html(self) -> str:
        """The same as a page of its own; the answers of a video play.

        Raises:
            ZooError: This ranking is an error.
        """
        return page([self])

    def _row(self) -> "Row":
        from zoo.viz.ranking import Cell, Row

        if self.error:
            raise self.error
        query = None
        if self.picture:
            lines = ("query", _about(self.label, self.camera, self.modality))
            query = Cell(_had(self.picture), "query", tuple(line for line in lines if line))
        title = PurePath(self.query).name if self.picture else self.query
        note = ", ".join(
            text for text in (f"{self.searched:,} searched" if self.searched else "", self.note or "") if text
        )
        return Row(title or self.query, query, tuple(_cell(hit) for hit in self.hits), note)

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = Text(self.query, style="bold")
        if self.note:
            title.append(f"  {self.note}", style="dim")
        if self.error:
            return Group(title, Text(f"  {self.error}", style="red"))
        table = Table.grid(padding=(0, 2))
        for justify in ("right", "right", "left", "left", "left"):
            table.add_column(justify=justify)
        for hit in self.hits:
            sign, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("", "")}[hit.is_right]
            about = _about(hit.label, hit.camera, hit.modality) or _when(hit)
            table.add_row(
                f"{hit.rank}", f"{hit.score:.3f}", Text(sign, style=colour), hit.path, Text(about, style="dim")
            )
        return Group(title, table)


def page(rankings: Sequence[Ranking], *, title: str | None = None) -> str:
    """A page with a section a query; those without an answer are left out.

    Args:
        rankings: What was found.
        title: Headline.

    Raises:
        ZooError: The first one's error, if none has an answer.
    """
    from zoo.viz.ranking import ranking_page

    answered = [ranking for ranking in rankings if not ranking.error]
    if not answered and rankings and rankings[0].error:
        raise rankings[0].error
    rows = [ranking._row() for ranking in answered]
    return ranking_page(rows, title=title or (rows[0].title if len(rows) == 1 else f"{len(rows)} queries"))


def _cell(hit: Hit) -> "Cell":
    from zoo.viz.ranking import Cell

    mark: dict[bool | None, Mark] = {True: "right", False: "wrong", None: "unknown"}
    word = {True: "right  ", False: "wrong  ", None: ""}[hit.is_right]
    about = _about(hit.label, hit.camera, hit.modality)
    lines = (f"{hit.rank}.  {hit.score:.3f}  {word}".rstrip(), about or _when(hit), PurePath(hit.path).name)
    return Cell(
        _had(hit.picture),
        mark[hit.is_right],
        tuple(line for line in lines if line),
        media=_address(hit),
        is_video=hit.start is not None,
    )


def _had(picture: "Callable[[], Image] | None") -> "Image | None":
    try:
        return picture() if picture else None
    except ZooError:
        return None  # gone since it was indexed: the answer stands, its place on the sheet stays empty


def _address(hit: Hit) -> str:
    if hit.media is not None:
        return hit.media
    address = hit.path if "://" in hit.path else Path(hit.path).absolute().as_uri()
    return address if hit.start is None else f"{address}#t={hit.start:.2f},{hit.end or hit.start:.2f}"


def _about(label: str | None, camera: str | None, modality: str | None) -> str:
    return ", ".join(
        text for text in (label and f"id {label}", camera and f"camera {camera}", modality) if text is not None and text
    )


def _when(hit: Hit) -> str:
    if hit.start is None or hit.end is None:
        return ""
    return f"{_clock(hit.start)} to {_clock(hit.end)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
