"""Sentences and clips against an index of videos: where it matched, the picture of it, and what it looked at."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoo.data.moments import Window, frames_at, moments, read_timeline
from zoo.data.transforms import Preprocess
from zoo.data.video import Frame, VideoWriter
from zoo.data.windows import Clip, clips_of
from zoo.errors import InputError, UsageError, WeightsUnavailable
from zoo.index.exact import NOTHING
from zoo.index.facts import Facts
from zoo.index.store import Store, open_store
from zoo.results.ranking import Hit, Ranking
from zoo.tasks.retrieve import clip_tensors, peaks, place_of
from zoo.tasks.retrievers import Retriever, open_retriever
from zoo.viz.heat import heat_overlay

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VideoSearch", "write_clip"]

WIDER = 4  # times as many windows are asked for, when videos fill the first places with theirs
CLIP_RATE = Fraction(25)  # of exported clips, for players that ask


class VideoSearch:
    """An index that is asked.

    Args:
        folder: Where the index is.
        weights: The file that it was made with, where that was not the checkpoint's own.
        vocabulary: File of the text encoder's vocabulary.
        device: "auto", or a torch device.
        address: A database in place of the folder.

    Raises:
        UsageError: There is no index of videos.
        WeightsUnavailable: It was made with other weights or preprocessing, or the weights are not to be had.
    """

    def __init__(
        self,
        folder: Path,
        *,
        weights: Path | None = None,
        vocabulary: Path | None = None,
        device: str = "auto",
        address: str | None = None,
    ) -> None:
        self.folder = folder
        self.store: Store = open_store(str(folder), address)
        facts = self.store.facts
        if facts.task != "retrieve":
            raise UsageError(f"{folder} is a gallery for {facts.task}", hint=f"zoo {facts.task} search")
        self.retriever = open_retriever(facts.model, weights=weights, vocabulary=vocabulary, device=device)
        _require(facts, self.retriever, str(folder))

    def texts(self, sentences: Sequence[str], **options: Any) -> list[Ranking]:
        """The best windows for each sentence; one that cannot be used gives a ranking with an error.

        Args:
            sentences: Queries.
            **options: `k`, `min_score` and `per_video`, see `like`.
        """
        answers = []
        for text in sentences:
            try:
                query = self.retriever.sentences([text])
                answers.append(self._ranking(text, query.vectors, query.notes[0], **options))
            except (InputError, UsageError) as error:
                answers.append(Ranking(text, error=error))
        return answers

    def like(self, path: str, **options: Any) -> Ranking:
        """The windows most like a clip: the best pair of its prototypes and theirs counts.

        Args:
            path: A video file, taken whole.
            **options: `k` answers; `min_score`, below which there are none; `per_video` answers of one video.

        Raises:
            InputError: The clip cannot be read.
        """
        clip = next(clips_of(path, self.retriever.input, self.retriever.frames, float("inf"), float("inf")))
        if isinstance(clip, InputError):
            raise clip
        vectors = self.retriever.clips(*clip_tensors([clip])).vectors[0]
        place = clip.line.places([(clip.window.start + clip.window.end) / 2])[0]
        ranking = self._ranking(path, vectors, None, **options)
        return replace(ranking, picture=partial(_picture, path, float(clip.line.times[place])))

    def _ranking(
        self,
        query: str,
        vectors: Tensor,
        note: str | None,
        *,
        k: int = 5,
        min_score: float | None = None,
        per_video: int = 1,
    ) -> Ranking:
        hits: list[Hit] = []
        for score, prototype, item in self._best(vectors, k, per_video):
            if min_score is not None and score < min_score:
                break
            hits.append(self._hit(len(hits) + 1, score, prototype, item))
        return Ranking(query, tuple(hits), searched=len(self.store), note=note)

    def _best(self, vectors: Tensor, k: int, per_video: int) -> Iterator[tuple[float, int, dict[str, Any]]]:
        """Scores, prototypes and items, best first, at most k in all and `per_video` of a video."""
        wanted, total = k, len(self.store)
        while True:
            wanted = min(wanted * WIDER, total)
            found = self._merged(vectors, wanted) if total else []
            items = self.store.take_items([row for row, _, _ in found])
            count: Counter[str] = Counter()
            kept = []
            for (_, score, prototype), item in zip(found, items, strict=True):
                count[item["path"]] += 1
                if count[item["path"]] <= per_video:
                    kept.append((score, prototype, item))
            if len(kept) >= k or wanted >= total:
                yield from kept[:k]
                return

    def _merged(self, vectors: Tensor, k: int) -> list[tuple[int, float, int]]:
        """The best rows over all query vectors: row, score, prototype."""
        hits = self.store.search(vectors, k)
        best: dict[int, tuple[float, int]] = {}
        for row, score, prototype in zip(
            hits.rows.ravel().tolist(), hits.scores.ravel().tolist(), hits.prototypes.ravel().tolist(), strict=True
        ):
            if row != NOTHING and score > best.get(row, (-np.inf, 0))[0]:
                best[row] = score, prototype
        ranked = sorted(best.items(), key=lambda entry: (-entry[1][0], entry[0]))
        return [(row, score, prototype) for row, (score, prototype) in ranked[:k]]

    def _hit(self, rank: int, score: float, prototype: int, item: dict[str, Any]) -> Hit:
        path = str(place_of(item["path"], self.folder))
        peak = item["peaks"][prototype]
        return Hit(
            rank,
            path,
            score,
            start=item["start"],
            end=item["end"],
            peak=peak,
            prototype=prototype,
            picture=partial(_picture, path, peak),
        )

    def explain(self, hit: Hit) -> "Image":
        """The frame that a hit's prototype looked at most, with its mask over it.

        Raises:
            InputError: The video is gone or damaged.
        """
        line = read_timeline(hit.path)
        frames, cut = self.retriever.frames, Preprocess(self.retriever.input)
        part = Window(float(hit.start or 0), float(hit.end or line.end))
        places = np.unique(line.places(moments(part, frames)))
        found = [_sound(frame) for frame in frames_at(line, places.tolist())]
        images = [_image(frame) for frame in found]
        pixels = [cut.crop(image) for image in images]
        full = np.stack(pixels + pixels[-1:] * (frames - len(pixels)))
        times = np.array([*(frame.time for frame in found), *[found[-1].time] * (frames - len(found))])
        clip = Clip(part, full, times, len(found), line)
        masks = self.retriever.clips(*clip_tensors([clip])).masks
        prototype = hit.prototype or 0
        at = int(np.argmin(np.abs(times - peaks(masks, [clip])[0][prototype])))
        rows, columns = self.retriever.network.grid
        heat = masks[0, :, prototype].view(frames, rows, columns)[at]
        heat = heat / heat.max().clamp(min=1e-12)
        return heat_overlay(images[at], heat.numpy(), cut.seen(images[at].size))


def _require(facts: Facts, retriever: Retriever, where: str) -> None:
    """Refuse vectors that are not comparable.

    Raises:
        WeightsUnavailable: Other weights or preprocessing made them.
    """
    try:
        facts.require(retriever.facts(facts.settings), where)
    except UsageError as error:
        raise WeightsUnavailable(
            error.message, hint=f"--weights FILE, the one it was made with; {error.hint}"
        ) from None


def _picture(path: str, time: float) -> "Image":
    """The frame that is shown at a time.

    Raises:
        InputError: The video is gone or damaged.
    """
    line = read_timeline(path)
    return _image(_sound(next(frames_at(line, line.places([time]).tolist()))))


def _image(frame: Frame) -> "Image":
    from PIL import Image

    return Image.fromarray(frame.pixels)


def _sound(frame: Frame | InputError) -> Frame:
    if isinstance(frame, InputError):
        raise frame
    return frame


def write_clip(hit: Hit, path: Path) -> None:
    """A hit as a video of its own that browsers play, without sound.

    Args:
        hit: What was found.
        path: .mp4 file.

    Raises:
        InputError: The video is gone or damaged, or the file cannot be written.
    """
    line = read_timeline(hit.path)
    start, end = float(hit.start or 0), float(hit.end or line.end)
    places = np.flatnonzero((line.times >= start - 1e-6) & (line.times < end))
    places = places if len(places) else line.places([start])
    pictures = (_sound(frame) for frame in frames_at(line, places.tolist()))
    first = next(pictures)
    height, width = first.pixels.shape[:2]
    rate = Fraction(line.rate).limit_denominator(1001) if line.rate else CLIP_RATE
    with VideoWriter(path, (width, height), rate) as writer:
        writer.write(Frame(first.pixels, 0.0))
        last = 0.0
        for frame in pictures:
            if frame.time - first.time > last:
                last = frame.time - first.time
                writer.write(Frame(frame.pixels, last))
