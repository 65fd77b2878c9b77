"""From a video and sentences to tubes: windows are encoded once, sentences are asked of them, answers are merged."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.build import create_model
from zoo.data.film import Film, clip_times, frames_at, middles, shown_at
from zoo.data.video import VideoReader, frame_times
from zoo.errors import InputError, UsageError
from zoo.metrics.grounding import FrameTube
from zoo.models.stvgformer import Encoded, Grounding, STVGFormer
from zoo.models.stvgformer_blocks import valid_spans
from zoo.registry.card import Card
from zoo.registry.names import resolve
from zoo.results.tube import Heat, Span, Tube
from zoo.tasks.device import pick_device, pick_dtype
from zoo.tasks.sentences import sentence_reader

__all__ = ["EncodedVideo", "GroundPipeline", "Settings", "ground_pipeline", "to_corners"]

JOINED = 0.5  # boxes of two windows overlap more than this where their spans touch, if it is one person
SUPPRESSED = 0.5  # spans that overlap more than this with a better one are no alternative
FOLLOWS = 0.5  # a window's span goes on with a neighbour's that scores at least this share of it


@dataclass(frozen=True)
class Settings:
    """How a video is looked at.

    Attributes:
        frames: Moments T a window is sampled at; None takes the network's.
        size: Short side in pixels that frames are shrunk to; None takes the network's.
        window: Seconds of a window; a shorter video is one window.
        stride: Seconds from a window to the next.
        chunk: Frames encoded at once; None encodes a window whole. The answer is the same.
        topn: Spans to name.
        min_score: A best span below it is no answer.
    """

    frames: int | None = None
    size: int | None = None
    window: float = 20.0
    stride: float = 10.0
    chunk: int | None = 8
    topn: int = 1
    min_score: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window:
            raise UsageError(
                f"windows of {self.window:g} s every {self.stride:g} s leave gaps", hint="0 < stride <= window"
            )
        if any(value is not None and value < 1 for value in (self.frames, self.size, self.chunk, self.topn)):
            raise UsageError("frames, size, chunk and topn start at 1", hint="leave them out for the defaults")
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"a score of {self.min_score:g}", hint="scores lie in [0, 1]")


@dataclass(frozen=True)
class Window:
    """A part of a video, encoded.

    Attributes:
        start: Seconds.
        end: Seconds.
        steps: (T,) numbers of the frames that are shown at the middle of each of T equal parts.
        seen: For the network.
    """

    start: float
    end: float
    steps: NDArray[np.int64]
    seen: Encoded


@dataclass(frozen=True)
class EncodedVideo:
    """A video that any number of sentences can be asked of.

    Attributes:
        source: Its path.
        size: Width and height, upright.
        rate: Frames a second, on average.
        times: (F,) seconds at which its frames are shown.
        windows: In order.
        note: What was wrong with it.
    """

    source: str
    size: tuple[int, int]
    rate: float
    times: NDArray[np.float64]
    windows: tuple[Window, ...]
    note: str | None = None


@dataclass(frozen=True)
class _Candidate:
    """A span of steps of a window."""

    window: int
    first: int
    last: int
    score: float


class GroundPipeline:
    """A grounding network with the reading of videos before it and the merging of windows behind it.

    Called with a video and one sentence it returns a `Tube` and raises what is wrong with either. With several
    sentences it encodes the video once and returns one `Tube` each; a bad sentence gives a tube with `.error`.

    Args:
        card: The checkpoint's card.
        model: The network, on its device.
        settings: How videos are looked at.
        device: Where the network is.
        dtype: Type that it computes in.
        tokenizer: File of its tokenizer.
    """

    def __init__(
        self,
        card: Card,
        model: STVGFormer,
        settings: Settings,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tokenizer: Path | None = None,
    ) -> None:
        self.card = card
        self.model = model
        self.settings = settings
        self.device = device
        self.dtype = dtype
        self.read = sentence_reader(model, tokenizer)

    def __repr__(self) -> str:
        return f"GroundPipeline({self.card.name}, {self.device}, {str(self.dtype).removeprefix('torch.')})"

    @overload
    def __call__(self, video: str | Path | EncodedVideo, query: str) -> Tube: ...
    @overload
    def __call__(self, video: str | Path | EncodedVideo, query: list[str]) -> list[Tube]: ...
    def __call__(self, video: str | Path | EncodedVideo, query: str | list[str]) -> Tube | list[Tube]:
        if isinstance(query, str):
            _check(query)  # before the video is read for it
        seen = video if isinstance(video, EncodedVideo) else self.encode(video)
        if not isinstance(query, str):
            return [self.ask(seen, sentence) for sentence in query]
        tube = self.ask(seen, query)
        if tube.error:
            raise tube.error
        return tube

    def encode(
        self,
        video: str | Path,
        *,
        start: float = 0.0,
        end: float | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> EncodedVideo:
        """Look at a video, or the part of it from `start` to `end` seconds.

        Args:
            video: A file.
            start: Where to begin.
            end: Where to stop; None goes to the end.
            step: Called after each window.

        Raises:
            InputError: It cannot be read, or has nothing between `start` and `end`.
        """
        with VideoReader(video) as reader:
            size, rate = reader.size, float(reader.rate)
        times = frame_times(video)
        length = float(times[-1]) + 1 / rate
        limit = length if end is None else min(end, length)
        if not 0 <= start < limit:
            raise InputError(f"{video} has nothing from {start:g} s to {limit:g} s", hint=f"it is {length:.2f} s long")
        plans = [self._plan(times, *part) for part in _windows(start, limit, self.settings)]
        windows = []
        with VideoReader(video) as reader:
            film = Film(reader, times, set().union(*(plan.wanted for plan in plans)), self._side(size))
            for plan in plans:
                film.decode_to(max(plan.wanted))
                windows.append(Window(plan.start, plan.end, plan.steps, self._encoded(plan, film)))
                film.forget_before(min((min(later.wanted) for later in plans[len(windows) :]), default=0))
                step()
                if film.damage:
                    break
        note = film.damage.message if film.damage else None
        return EncodedVideo(str(video), size, rate, times[: film.last + 1] if note else times, tuple(windows), note)

    def ask(self, video: EncodedVideo, sentence: str) -> Tube:
        """The tube of a sentence; one that cannot be used gives a tube with `.error`."""
        facts: dict[str, Any] = {"size": video.size, "rate": video.rate}
        try:
            _check(sentence)
        except InputError as error:
            return Tube(video.source, sentence, error=error, **facts)
        words = self.read([sentence]).to(self.device)
        answers = [self._ground(window, words) for window in video.windows]
        ranked = _ranked(answers, video.windows, self.settings.topn)
        notes = [video.note] if video.note else []
        if words.unknown[0]:
            notes.append(f"words it does not know: {', '.join(dict.fromkeys(words.unknown[0]))}")
        best = ranked[0]
        if best.score < self.settings.min_score:
            notes.append(f"not found: the best score is {best.score:.2f}, below {self.settings.min_score:g}")
            return Tube(video.source, sentence, note="; ".join(notes), **facts)
        parts = _joined(best, answers, video)
        span = _span(parts, video.windows)
        shown = np.flatnonzero((video.times >= span.start) & (video.times < span.end))
        if not len(shown):  # between two frames that are far apart
            shown = np.array([shown_at(video.times, (span.start + span.end) / 2)])
        sampled, boxes = _sampled_boxes(parts, answers, video)
        between = _between(video.times[sampled], boxes, video.times[shown])
        return Tube(
            video.source,
            sentence,
            span,
            video.times[shown],
            shown,
            between.astype(np.float32),
            ~np.isin(shown, sampled),
            alternatives=tuple(_span([part], video.windows) for part in ranked[1:]),
            note="; ".join(notes) or None,
            heat=_heat(parts, answers, video),
            pictures=lambda numbers: frames_at(video.source, video.times, numbers),
            **facts,
        )

    def every_frame(self, video: EncodedVideo, sentence: str) -> FrameTube:
        """The best span of a video of one window, with a box for every frame of it and around it, as scores ask for.

        Raises:
            InputError: The sentence has no word.
        """
        _check(sentence)
        answers = [self._ground(video.windows[0], self.read([sentence]).to(self.device))]
        (best,) = _ranked(answers, video.windows, 1)
        start, end = np.searchsorted(video.times, _limits(best, video.windows)).tolist()
        start = min(start, len(video.times) - 1)
        whole = _Candidate(0, 0, len(video.windows[0].steps) - 1, best.score)
        sampled, boxes = _sampled_boxes([whole], answers, video)
        boxes = _between(video.times[sampled], boxes, video.times)
        return FrameTube(start, max(end, start + 1), boxes, 0, len(video.times))

    def _plan(self, times: NDArray[np.float64], start: float, end: float) -> "_Plan":
        """Which frames a window needs: those shown at the middle of its T parts, and the clip around each."""
        moments = middles(start, end, self.settings.frames or self.model.frames)
        clip = self.model.clip
        steps, around = shown_at(times, moments), shown_at(times, clip_times(moments, clip.frames, clip.seconds))
        return _Plan(start, end, steps, around)

    def _side(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that frames are shrunk to."""
        short, longest = self.settings.size or self.model.size, self.model.long_size
        scale = short / min(size)
        if self.settings.size is None:
            scale = min(scale, longest / max(size))
        width, height = (max(8, round(side * scale)) for side in size)
        return height, width

    @torch.inference_mode()
    def _encoded(self, plan: "_Plan", film: "Film") -> Encoded:
        """A window for the network, a chunk of its frames at once."""
        model, chunk = self.model, self.settings.chunk or len(plan.steps)
        try:
            with self._precision():
                if not model.clip.frames:
                    return model.encode(film.stack(plan.steps).to(self.device)[None], chunk=chunk)
                parts = []
                for at in range(0, len(plan.steps), chunk):
                    here = slice(at, at + chunk)
                    clips = torch.stack([film.stack(of) for of in plan.around[here]]).transpose(1, 2)
                    frames = film.stack(plan.steps[here]).to(self.device)
                    parts.append(model.encode(frames[None], clips.to(self.device)[None]))
                return _one_after_another(parts)
        except torch.OutOfMemoryError:
            raise UsageError(
                f"{self.card.name} does not fit into the memory of {self.device}",
                hint="--chunk 1, --size smaller, --dtype bfloat16 or --device cpu",
            ) from None

    @torch.inference_mode()
    def _ground(self, window: Window, words: Any) -> Grounding:
        with self._precision():
            return self.model.ground(window.seen, words, chunk=self.settings.chunk)

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


def ground_pipeline(
    name: str,
    *,
    checkpoint_path: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    tokenizer: Path | None = None,
    **settings: Any,
) -> GroundPipeline:
    """A network that finds who sentences speak of in videos.

    Args:
        name: Any spelling that `zoo.create_model` takes.
        checkpoint_path: A safetensors file in place of the published weights.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        dtype: "float32", "float16" or "bfloat16".
        tokenizer: File of the text encoder's tokenizer.
        **settings: Fields of `Settings`.

    Raises:
        UnknownName: No such model.
        UsageError: It does not ground, or a setting cannot be.
        WeightsUnavailable: There are no weights, or no tokenizer.
        IntegrityError: The weights are not what they should be.
    """
    card = resolve(name)
    if card.task != "ground":
        raise UsageError(f"{card.name} is made to {card.task}; it cannot ground", hint="zoo list --task ground")
    try:
        chosen = Settings(**settings)
    except TypeError as error:
        raise UsageError(f"grounding: {error}", hint=f"it takes {', '.join(Settings.__annotations__)}") from None
    place, kind = pick_device(device), pick_dtype(dtype)
    model = create_model(card.name, pretrained=checkpoint_path is None, checkpoint_path=checkpoint_path)
    assert isinstance(model, STVGFormer)  # so far the only network of this task
    model = model.to(place).eval().requires_grad_(False)
    return GroundPipeline(card, model, chosen, device=place, dtype=kind, tokenizer=tokenizer)


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) of centre, width and height to left, top, right and bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class _Plan:
    """What a window needs: numbers of frames, (T,) at its steps and (T, K) around each."""

    start: float
    end: float
    steps: NDArray[np.int64]
    around: NDArray[np.int64]

    @property
    def wanted(self) -> set[int]:
        return {int(number) for number in np.concatenate([self.steps, self.around.ravel()])}


def _check(sentence: str) -> None:
    if not any(map(str.isalnum, sentence)):
        raise InputError(
            f"the sentence {sentence!r} has no word", hint='such as "the man in the blue coat turns around"'
        )


def _windows(start: float, end: float, settings: Settings) -> list[tuple[float, float]]:
    """Equally long parts, the last of which ends where the video ends."""
    if end - start <= settings.window:
        return [(start, end)]
    count = int(np.ceil((end - start - settings.window) / settings.stride)) + 1
    starts = np.minimum(start + settings.stride * np.arange(count), end - settings.window)
    return [(float(at), float(at) + settings.window) for at in starts]


def _one_after_another(parts: list[Encoded]) -> Encoded:
    first = parts[0]
    assert first.dynamic is not None
    dynamic = torch.cat([part.dynamic for part in parts if part.dynamic is not None], 1)
    return Encoded(torch.cat([part.static for part in parts], 1), dynamic, first.grid, first.padding)


def _ranked(answers: Sequence[Grounding], windows: Sequence[Window], count: int) -> list[_Candidate]:
    """The best spans over all windows, apart from each other in time, best first."""
    found = []
    for at, answer in enumerate(answers):
        shares = answer.chances()[0]
        valid = valid_spans(len(shares), None, shares.device)[0]
        best = shares.masked_fill(~valid, -1).flatten().topk(min(int(valid.sum()), 50 * count))
        places = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found += [_Candidate(at, place // len(shares), place % len(shares), score) for place, score in places]
    found.sort(key=lambda candidate: -candidate.score)
    kept: list[_Candidate] = []
    for candidate in found:
        if len(kept) == count:
            break
        if all(_overlap(_limits(candidate, windows), _limits(other, windows)) <= SUPPRESSED for other in kept):
            kept.append(candidate)
    return kept


def _limits(candidate: _Candidate, windows: Sequence[Window]) -> tuple[float, float]:
    """Start and end of a span in seconds."""
    window = windows[candidate.window]
    part = (window.end - window.start) / len(window.steps)
    return window.start + candidate.first * part, window.start + (candidate.last + 1) * part


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def _span(parts: Sequence[_Candidate], windows: Sequence[Window]) -> Span:
    limits = [_limits(part, windows) for part in parts]
    return Span(min(start for start, _ in limits), max(end for _, end in limits), max(part.score for part in parts))


def _joined(best: _Candidate, answers: Sequence[Grounding], video: EncodedVideo) -> list[_Candidate]:
    """The best span, and those of neighbouring windows that go on where it ends, with the same person."""
    parts = [best]
    for way in (-1, 1):
        at, edge = best.window + way, best
        while 0 <= at < len(answers):
            (mine,) = _ranked(answers[at : at + 1], video.windows[at : at + 1], 1)
            nearby = _Candidate(at, mine.first, mine.last, mine.score)
            if nearby.score < FOLLOWS * best.score or not _go_together(edge, nearby, answers, video):
                break
            parts.append(nearby)
            at, edge = at + way, nearby
    return parts


def _go_together(one: _Candidate, other: _Candidate, answers: Sequence[Grounding], video: EncodedVideo) -> bool:
    """Whether two spans overlap or touch, and their boxes are in one place there."""
    (start, end), (start_2, end_2) = (_limits(part, video.windows) for part in (one, other))
    window = video.windows[one.window]
    if max(start, start_2) - min(end, end_2) >= (window.end - window.start) / len(window.steps):
        return False
    seam = (max(start, start_2) + min(end, end_2)) / 2
    places = []
    for part in (one, other):
        sampled, boxes = _sampled_boxes([part], answers, video)
        places.append(boxes[np.abs(video.times[sampled] - seam).argmin()])
    low, high = np.maximum(places[0][:2], places[1][:2]), np.minimum(places[0][2:], places[1][2:])
    shared = np.clip(high - low, 0, None).prod()
    areas = [(box[2:] - box[:2]).prod() for box in places]
    return bool(shared > JOINED * (sum(areas) - shared))


def _sampled_boxes(
    parts: Sequence[_Candidate], answers: Sequence[Grounding], video: EncodedVideo
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frames of the spans that the network saw, rising, and their boxes (K, 4) in pixels; means where it saw twice."""
    numbers, boxes = [], []
    for part in parts:
        here = slice(part.first, part.last + 1)
        numbers.append(video.windows[part.window].steps[here])
        boxes.append(to_corners(answers[part.window].boxes[0, here]).clamp(0, 1).double().cpu().numpy())
    sampled, where, counts = np.unique(np.concatenate(numbers), return_inverse=True, return_counts=True)
    sums = np.zeros((len(sampled), 4))
    np.add.at(sums, where, np.concatenate(boxes))
    return np.minimum(sampled, len(video.times) - 1), sums / counts[:, None] * np.array(video.size * 2)


def _between(
    sampled: NDArray[np.float64], boxes: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Boxes at some times, between those of sampled times; beyond the ends, the nearest one's."""
    return np.stack([np.interp(times, sampled, side) for side in boxes.T], 1)


def _heat(parts: Sequence[_Candidate], answers: Sequence[Grounding], video: EncodedVideo) -> Heat:
    """Where the static stream looked, on the frames of the best span that the network saw."""
    best, answer = parts[0], answers[parts[0].window]
    numbers, rows = np.unique(video.windows[best.window].steps[best.first : best.last + 1], return_index=True)
    looked = answer.looked[-1][0, best.first : best.last + 1].float().cpu().numpy()[rows]
    maps = looked.reshape(len(rows), *answer.grid)
    return Heat(numbers, maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-9))
