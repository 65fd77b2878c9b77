"""How well captions find their clips and clips their captions, by one protocol that is named with the figures."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo import settings
from zoo.data.captions import Described, load_described, protocol
from zoo.data.clip_sources import DRAWN, ClipSource, DrawnClips, VideoClips, open_clips
from zoo.errors import InputError, UsageError
from zoo.metrics.retrieval import RetrievalScores, dual_softmax, retrieval_scores
from zoo.tasks.retrievers import Retriever

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Exam", "Judged", "evaluate_retrieval", "exam_of"]

AT_ONCE = 32  # clips
PROTOCOLS = ("multi", "1ka", "paragraph")


@dataclass(frozen=True)
class Exam:
    """Clips and queries with one right answer each.

    Attributes:
        source: Where clips come from.
        rows: Their numbers in it.
        queries: Sentences.
        owner: For each, the place of its clip in `rows`.
        protocol: What a figure means, in one line.
    """

    source: ClipSource
    rows: tuple[int, ...]
    queries: tuple[str, ...]
    owner: tuple[int, ...]
    protocol: str = ""

    @classmethod
    def of(cls, source: ClipSource, rows: Sequence[int] | None = None, protocol: str = "") -> "Exam":
        """All captions of clips; of drawn clips, those that are true of one clip only.

        Raises:
            UsageError: There is no such caption.
        """
        chosen = tuple(range(len(source.captions))) if rows is None else tuple(int(row) for row in rows)
        captions = [source.captions[row] for row in chosen]
        times = Counter(text for texts in captions for text in set(texts))
        wanted = [
            (text, i)
            for i, texts in enumerate(captions)
            for text in texts
            if times[text] == 1 or not isinstance(source, DrawnClips)
        ]
        if not wanted:
            raise UsageError("no caption is true of one clip only", hint="more clips are needed")
        return cls(source, chosen, tuple(text for text, _ in wanted), tuple(i for _, i in wanted), protocol)


@dataclass(frozen=True)
class Judged:
    """Figures, and how they came about.

    Attributes:
        model: Who was judged.
        protocol: On what, by which rules.
        scores: Both directions.
        usage: Share of the queries whose clip each prototype answered for.
        spread: Mean variance of a clip's prototypes in a dimension; 0 of one.
        is_dual: Whether similarities were weighed by the dual softmax.
        failed: Clips that could not be read; they are found by nobody, and count.
    """

    model: str
    protocol: str
    scores: RetrievalScores
    usage: tuple[float, ...]
    spread: float
    is_dual: bool
    failed: tuple[InputError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            "dual_softmax": self.is_dual,
            **self.scores.to_dict(),
            "prototype_usage": [round(share, 4) for share in self.usage],
            "prototype_variance": self.spread,
            "failed": [error.message for error in self.failed],
        }

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2), pad_edge=False)
        for name in ("", "R@1", "R@5", "R@10", "MdR", "MnR", "queries"):
            table.add_column(name, justify="right" if name else "left")
        for name, ranks in (
            ("text to video", self.scores.text_to_video),
            ("video to text", self.scores.video_to_text),
        ):
            shares = (f"{value:.1f}" for value in (ranks.r1, ranks.r5, ranks.r10, ranks.mdr, ranks.mnr))
            table.add_row(name, *shares, str(ranks.queries))
        how = "with dual softmax, which uses all queries at once" if self.is_dual else ""
        used = ", ".join(f"{share:.0%}" for share in self.usage)
        lines = (
            [Text(f"{self.model}  {self.protocol}", style="bold"), Text(how)]
            if how
            else [Text(f"{self.model}  {self.protocol}", style="bold")]
        )
        return Group(*lines, table, Text(f"prototypes that answered: {used}", style="dim"))


def exam_of(name: str, split: str, retriever: Retriever, root: Path | None = None, rules: str | None = None) -> Exam:
    """An exam on a part of a set, or on a list of one's own.

    Args:
        name: "zooclips", a published set, a folder, or a list: see `open_clips`.
        split: Part of a set.
        retriever: Who will be judged.
        root: Where sets lie.
        rules: "multi" makes every caption a query; "1ka" wants one caption a clip; "paragraph" joins those of a
            clip. By default captions are taken as they are.

    Raises:
        UsageError: No such rules or part, or clips with several captions under "1ka".
        InputError: The set is not there.
    """
    folder = root or settings.data_root()
    if rules is not None and rules not in PROTOCOLS:
        raise UsageError(f"no protocol {rules!r}", hint=", ".join(PROTOCOLS))
    if name == DRAWN:
        drawn = open_clips(name, split, folder, retriever.input, retriever.frames)
        return Exam.of(drawn, protocol=f"{DRAWN} {split}: captions that are true of one of {len(drawn.captions)} clips")
    described = load_described(name, split, folder)
    several = sum(len(item.captions) > 1 for item in described)
    if rules == "1ka" and several:
        raise UsageError(f"{several} clips have more than one caption", hint="--protocol multi, or paragraph")
    if rules == "paragraph":
        described = [Described(item.video, (" ".join(item.captions),), item.start, item.end) for item in described]
    how = {
        "paragraph": "the captions of a clip joined to one query",
        "1ka": "one caption a clip",
        "multi": "every caption is a query",
    }.get(rules or ("multi" if several else "1ka"))
    line = f"{protocol(name, split)} ({len(described)} clips, {how})"
    return Exam.of(VideoClips(tuple(described), retriever.input, retriever.frames), protocol=line)


def evaluate_retrieval(
    retriever: Retriever, exam: Exam, *, dual: bool = False, report: Callable[[], None] = lambda: None
) -> Judged:
    """Encode everything once, and rank.

    Args:
        retriever: Who is judged.
        exam: On what.
        dual: Whether to weigh similarities by the dual softmax.
        report: Called after each clip.

    Raises:
        InputError: The network knows no word of a query, or no clip can be read.
    """
    from zoo.models.tmvm import match

    vectors, failed = [], []
    height, width = retriever.input.size[1:]
    for start in range(0, len(exam.rows), AT_ONCE):
        clips, counts = [], []
        for row in exam.rows[start : start + AT_ONCE]:
            try:
                clip, count = exam.source.read(row, None)
            except InputError as error:
                failed.append(error)
                clip, count = np.zeros((retriever.frames, height, width, 3), np.uint8), 1
            clips.append(torch.from_numpy(clip))
            counts.append(count)
            report()
        seen = torch.arange(retriever.frames) < torch.tensor(counts)[:, None]
        vectors.append(retriever.clips(torch.stack(clips), seen).vectors)
    if len(failed) == len(exam.rows):
        raise failed[0]
    prototypes = torch.cat(vectors)
    similarity, winners = match(retriever.sentences(exam.queries).vectors, prototypes)
    scores = dual_softmax(similarity.numpy()) if dual else similarity.numpy()
    own = winners[torch.arange(len(winners)), torch.tensor(exam.owner)]
    usage = torch.bincount(own, minlength=prototypes.shape[1]) / len(own)
    spread = float(prototypes.var(1).mean()) if prototypes.shape[1] > 1 else 0.0
    ranked = retrieval_scores(scores, exam.owner)
    return Judged(retriever.name, exam.protocol, ranked, tuple(usage.tolist()), spread, dual, tuple(failed))
