"""How well who is meant was found: files of tubes against annotations, a network on drawn scenes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from zoo import settings
from zoo.data.tube_sets import TubeSet, open_tubes
from zoo.data.tubes import read_annotations, read_predictions
from zoo.data.zooclips_ground import SPLITS, film_scene, plan_scene
from zoo.errors import InputError, UsageError
from zoo.layers.wrapped import unwrapped
from zoo.metrics.grounding import Convention, FrameTube, GroundingScores, grounding_scores
from zoo.models.stvgformer import STVGFormer
from zoo.models.stvgformer_blocks import valid_spans
from zoo.models.stvgformer_encoders import read_words
from zoo.tasks.ground import GroundPipeline, ground_pipeline, to_corners

__all__ = ["FileScores", "best_span", "by_kind", "score_files", "score_model", "score_scenes", "score_set"]

AT_ONCE = 20  # films
SCENES = "zooclips_ground"
Figures = dict[str, dict[str, float]]  # per cent by group of samples and by name


@dataclass(frozen=True)
class FileScores:
    """Scores of predictions.

    Attributes:
        figures: As `by_kind` gives them.
        bad: What could not be used, one line each.
    """

    figures: Figures
    bad: list[str]


def score_files(predictions: Path, truths: Path, convention: str, *, peer_compat: bool = False) -> FileScores:
    """Score predicted tubes against annotations; see `zoo.data.tubes` for the forms of both files.

    Raises:
        UsageError: No such convention, or it asks for what the annotations do not say.
        InputError: A file cannot be read, or does not hold what it should.
    """
    _check_convention(convention)
    known = read_annotations(truths, peer_compat=peer_compat)
    if not known.samples:
        raise InputError(f"{truths} holds no annotation that can be used", hint=known.bad[0] if known.bad else None)
    found = read_predictions(predictions, known.samples)
    tubes = {sample.key: sample.tube for sample in known.samples}
    try:
        whole = grounding_scores(found, tubes, convention)  # type: ignore[arg-type]  # looked up above
    except ValueError as error:
        raise UsageError(f"{predictions}: {error}", hint="keys are the videos' names, as in the annotations") from None
    return FileScores(by_kind(whole, [sample.kind for sample in known.samples]), known.bad)


def by_kind(scores: GroundingScores, kinds: Sequence[str]) -> Figures:
    """Per cent by name, of all samples and, where there are several, of each kind."""
    of_kind = np.array(kinds)
    groups = {"all": scores}
    if len(set(kinds)) > 1:
        groups |= {kind: scores.only(of_kind == kind) for kind in sorted(set(kinds))}
    return {
        group: {name: 100 * value if "IoU" in name else value for name, value in found.to_dict().items()}
        for group, found in groups.items()
    }


def score_model(
    name: str,
    data: str,
    split: str,
    *,
    root: Path | None = None,
    convention: str = "every_frame",
    step: Callable[[], None] = lambda: None,
    **options: Any,
) -> FileScores:
    """Figures of a network on drawn scenes or on a set of videos.

    Args:
        name: Of the network.
        data: "zooclips_ground", or a set as `zoo.data.tube_sets.open_tubes` takes it.
        split: Part of it.
        root: Folder that holds sets.
        convention: How frames are counted.
        step: Called after each video.
        **options: Further ones of `ground_pipeline`.

    Raises:
        UsageError: It does not ground in a vocabulary of words, or there is no such split or convention.
        InputError: The set cannot be had.
        WeightsUnavailable, IntegrityError: Its weights cannot be had, or are not what they should be.
    """
    _check_convention(convention)
    if data == SCENES:
        if split not in SPLITS:
            raise UsageError(f"no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
        pipe = ground_pipeline(name, **options)
        if not pipe.model.vocabulary:
            raise UsageError(f"{name} was not made for drawn scenes", hint="stvgformer_tiny")
        return FileScores(by_kind(*score_scenes(pipe.model, SPLITS[split], pipe.device)), [])
    tubes = open_tubes(data, split, root or settings.data_root())
    pipe = ground_pipeline(name, window=math.inf, stride=math.inf, min_score=0.0, **options)
    scores, kinds, bad = score_set(pipe, tubes, convention, step=step)
    return FileScores(by_kind(scores, kinds), tubes.bad + bad)


def score_set(
    pipe: GroundPipeline, tubes: TubeSet, convention: str = "every_frame", *, step: Callable[[], None] = lambda: None
) -> tuple[GroundingScores, list[str], list[str]]:
    """Find the tube of every sentence of a set and compare.

    Args:
        pipe: Whose settings take a video for one window.
        tubes: The set.
        convention: How frames are counted.
        step: Called after each sentence.

    Returns:
        The scores, the kind of each sentence, and what could not be read, which scores 0.
    """
    found: list[FrameTube | None] = []
    bad: list[str] = []
    last, seen = None, None
    for sample, path in zip(tubes.samples, tubes.videos, strict=True):
        start = sample.start / sample.rate if sample.start else 0.0
        end = (sample.start + (sample.tube.video_frames or 0)) / sample.rate if sample.start else None
        try:
            if (path, start) != last or seen is None:  # sentences of a video stand together
                seen = None
                last, seen = (path, start), pipe.encode(path, start=start, end=end)
            tube = pipe.every_frame(seen, sample.sentence)
            first, boxes = max(0, tube.start - sample.start), tube.boxes[sample.start :]
            found.append(FrameTube(first, max(first + 1, tube.end - sample.start), boxes, 0))
        except (InputError, ValueError) as error:  # a video that is shorter than its annotation says
            bad.append(f"{sample.key}: {error.message if isinstance(error, InputError) else error}")
            found.append(None)
        step()
    truths = [sample.tube for sample in tubes.samples]
    scores = grounding_scores(found, truths, convention)  # type: ignore[arg-type]  # looked up by the caller
    return scores, [sample.kind for sample in tubes.samples], bad


def _check_convention(convention: str) -> None:
    if convention not in get_args(Convention):
        raise UsageError(f"no convention {convention!r}", hint=", ".join(get_args(Convention)))


@torch.inference_mode()
def score_scenes(
    model: nn.Module,
    seeds: Sequence[int],
    device: torch.device,
    *,
    sentences: Sequence[str] | None = None,
    side: int = 64,
) -> tuple[GroundingScores, list[str]]:
    """Find the target of each scene and compare: the scores, and the kind of each scene.

    Args:
        model: An `STVGFormer` with the words of drawn scenes.
        seeds: Of the scenes.
        device: Where the network is.
        sentences: One a scene in place of its own.
        side: Pixels a side.
    """
    bare = unwrapped(model, STVGFormer)
    found, truths = [], []
    kinds: list[str] = []
    was_training = bare.training
    bare.eval()
    for at in range(0, len(seeds), AT_ONCE):
        clips = [film_scene(plan_scene(int(seed), bare.frames), side) for seed in seeds[at : at + AT_ONCE]]
        asked = sentences[at : at + AT_ONCE] if sentences else [clip.scene.sentence for clip in clips]
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(device).movedim(-1, 2).float() / 255
        answer = bare(frames, read_words(asked, bare.vocabulary).to(device))
        boxes = to_corners(answer.boxes).cpu().double().numpy()
        for clip, corners, chances in zip(clips, boxes, answer.chances(), strict=True):
            start, last = best_span(chances)
            truth = clip.scene.span
            found.append(FrameTube(start, last + 1, corners, 0))
            truths.append(FrameTube(truth.start, truth.end, clip.boxes[0].astype(np.float64), 0))
            kinds.append(clip.scene.kind)
    bare.train(was_training)
    return grounding_scores(found, truths), kinds


def best_span(chances: Tensor) -> tuple[int, int]:
    """First and last step of the span with the highest of (T, T) chances."""
    steps = len(chances)
    allowed = chances.masked_fill(~valid_spans(steps, None, chances.device)[0], -torch.inf)
    best = int(allowed.argmax())
    return best // steps, best % steps
