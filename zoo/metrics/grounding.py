"""How well tubes are found: a person's boxes from a first frame to a last one, against the true ones.

Three conventions of counting frames are in use; they agree within a few hundredths of a per cent where tubes overlap.
TubeDETR's first release took the earlier of the two ends for the end of the union, which flatters; figures of that
family from before May 2022 are too high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["Convention", "FrameTube", "GroundingScores", "grounding_scores"]

Convention = Literal["every_frame", "challenge", "tubedetr"]
Boxes = NDArray[np.floating]

SAMPLED_FPS, SAMPLED_MOST, SAMPLED_SECONDS = 5, 200, 20  # TubeDETR's view of HC-STVG


@dataclass(frozen=True, eq=False)
class FrameTube:
    """Boxes over frames, and the span of frames that counts.

    Attributes:
        start: First frame, from 0.
        end: The frame behind the last one.
        boxes: (N, 4) pixels: left, top, right, bottom, of the frames from `first` on.
        first: Frame of the first box; a prediction may have boxes outside of its span, and m_sIoU asks for them. None
            is `start`.
        video_frames: Frames of the whole video, which the convention "tubedetr" samples.

    Raises:
        ValueError: The span is empty, or a frame in it has no box.
    """

    start: int
    end: int
    boxes: Boxes
    first: int | None = None
    video_frames: int | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes are {self.boxes.shape}; they are (N, 4)")
        if not 0 <= self.offset <= self.start < self.end <= self.offset + len(self.boxes):
            raise ValueError(
                f"a span of frames {self.start} to {self.end} with {len(self.boxes)} boxes from frame {self.offset} on"
            )

    @property
    def offset(self) -> int:
        """Frame of the first box."""
        return self.start if self.first is None else self.first

    def at(self, frames: NDArray[np.int64]) -> Boxes:
        """Boxes (K, 4) of frames; NaN where there is none."""
        rows = frames - self.offset
        there = (rows >= 0) & (rows < len(self.boxes))
        found = np.full((len(frames), 4), np.nan)
        found[there] = self.boxes[rows[there]]
        return found


@dataclass(frozen=True, eq=False)
class GroundingScores:
    """Scores of every sample, and their means.

    Attributes:
        viou: (S,) overlap in space, summed over the frames in both tubes, over the frames in either.
        tiou: (S,) overlap of the spans in time.
        siou: (S,) overlap in space, averaged over the true frames whatever the predicted span.
        absent: (S,) whether a sample has no prediction; it counts 0.
    """

    viou: NDArray[np.float64]
    tiou: NDArray[np.float64]
    siou: NDArray[np.float64]
    absent: NDArray[np.bool_]

    @property
    def missing(self) -> int:
        """How many samples have no prediction."""
        return int(self.absent.sum())

    @property
    def m_vIoU(self) -> float:
        return float(self.viou.mean())

    @property
    def m_tIoU(self) -> float:
        return float(self.tiou.mean())

    @property
    def m_sIoU(self) -> float:
        return float(self.siou.mean())

    def above(self, overlap: float) -> float:
        """vIoU@R: share of the samples whose vIoU is strictly greater."""
        return float((self.viou > overlap).mean())

    def only(self, chosen: NDArray[np.bool_]) -> "GroundingScores":
        """Those of some samples."""
        return GroundingScores(self.viou[chosen], self.tiou[chosen], self.siou[chosen], self.absent[chosen])

    def to_dict(self) -> dict[str, float]:
        """The figures of published tables, in [0, 1], and the number of samples."""
        return {
            "m_vIoU": self.m_vIoU,
            "vIoU@0.3": self.above(0.3),
            "vIoU@0.5": self.above(0.5),
            "m_tIoU": self.m_tIoU,
            "m_sIoU": self.m_sIoU,
            "samples": len(self.viou),
            "missing": self.missing,
        }


K = TypeVar("K")
Tubes = Mapping[K, FrameTube] | Sequence[FrameTube | None]


def grounding_scores(
    predictions: Tubes[K], truths: Tubes[K], convention: Convention = "every_frame"
) -> GroundingScores:
    """Scores of predicted tubes against the true ones.

    Args:
        predictions: By the keys of `truths`, or in their order; a sample that is missing or None scores 0.
        truths: The annotated tubes.
        convention: "every_frame" counts all frames. "challenge" takes the hull of both spans for their union, as the
            script of the HC-STVG challenge does; the value is the same. "tubedetr" counts only frames sampled 5 times a
            second, as tables of the TubeDETR family do, and needs `video_frames` of the truths.

    Raises:
        ValueError: No truth, sequences of unlike length, a prediction of no known sample, or no such convention.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"no convention {convention!r}; one of {', '.join(get_args(Convention))}")
    pairs = _pairs(predictions, truths)
    if not pairs:
        raise ValueError("there is no truth to score against")
    rows = [(0.0, 0.0, 0.0) if found is None else _score(found, truth, convention) for found, truth in pairs]
    viou, tiou, siou = np.array(rows, np.float64).T
    return GroundingScores(viou, tiou, siou, np.array([found is None for found, _ in pairs]))


def _pairs(predictions: Tubes[K], truths: Tubes[K]) -> list[tuple[FrameTube | None, FrameTube]]:
    if isinstance(truths, Mapping):
        if not isinstance(predictions, Mapping):
            raise ValueError("truths have keys and predictions have none")
        if strangers := [key for key in predictions if key not in truths]:
            raise ValueError(f"predictions of samples that have no truth: {', '.join(map(str, strangers[:3]))}")
        return [(predictions.get(key), truth) for key, truth in truths.items()]
    if isinstance(predictions, Mapping) or len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} truths")
    if any(truth is None for truth in truths):
        raise ValueError("a truth is None")
    return [(found, truth) for found, truth in zip(predictions, truths, strict=True) if truth is not None]


def _score(found: FrameTube, truth: FrameTube, convention: Convention) -> tuple[float, float, float]:
    """vIoU, tIoU, sIoU of one sample."""
    first, last = min(found.start, truth.start), max(found.end, truth.end)  # the hull
    inner, outer = max(found.start, truth.start), min(found.end, truth.end)  # the frames in both
    both = max(0, outer - inner)
    either = last - first if convention == "challenge" else found.end - found.start + truth.end - truth.start - both
    frames = _sampled(truth) if convention == "tubedetr" else np.arange(first, last)
    is_true = (frames >= truth.start) & (frames < truth.end)
    overlap = np.zeros(len(frames))
    overlap[is_true] = _iou(found.at(frames[is_true]), truth.at(frames[is_true]))
    count = ((frames >= first) & (frames < last)).sum() if convention == "tubedetr" else either
    viou = overlap[(frames >= inner) & (frames < outer)].sum() / max(1, count)
    return float(viou), both / either, float(overlap.sum() / max(1, is_true.sum()))


def _sampled(truth: FrameTube) -> NDArray[np.int64]:
    """Frames that TubeDETR looks at: the first one of each fifth of a second, thinned to 200."""
    if truth.video_frames is None:
        raise ValueError("the convention 'tubedetr' needs video_frames of every truth")
    rate = SAMPLED_FPS * SAMPLED_SECONDS / truth.video_frames  # samples a frame
    frames = np.arange(truth.video_frames)
    tick = (frames * rate).astype(np.int64)
    chosen = frames[np.concatenate([[True], tick[1:] > tick[:-1]])]
    if len(chosen) > SAMPLED_MOST:
        chosen = chosen[np.arange(SAMPLED_MOST) * len(chosen) // SAMPLED_MOST]
    return chosen


def _iou(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """IoU of pairs (K, 4) in corners; 0 where one is missing."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)
