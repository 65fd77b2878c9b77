"""How well who is meant was found: files of tubes against annotations, a network on drawn scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.tubes import read_annotations, read_predictions
from zoo.data.zooclips_ground import KINDS, film_scene, plan_scene
from zoo.errors import InputError, UsageError
from zoo.metrics.grounding import Convention, FrameTube, GroundingScores, grounding_scores
from zoo.models.stvgformer import STVGFormer
from zoo.models.stvgformer_blocks import valid_spans
from zoo.models.stvgformer_encoders import read_words
from zoo.tasks.ground import to_corners

__all__ = ["FileScores", "SceneScores", "best_span", "score_files", "score_scenes"]

AT_ONCE = 20  # films


@dataclass(frozen=True)
class SceneScores:
    """Scores of scenes, whole and by kind.

    Attributes:
        scores: Of all scenes.
        kinds: Of each scene.
    """

    scores: GroundingScores
    kinds: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Per cent by name: the means of all scenes, and vIoU, tIoU and sIoU of each kind."""
        figures = {name: value for name, value in _per_cent(self.scores).items() if "IoU" in name}
        of_kind = np.array(self.kinds)
        for kind in KINDS:
            for name, values in (("vIoU", self.scores.viou), ("tIoU", self.scores.tiou), ("sIoU", self.scores.siou)):
                figures[f"{kind}_{name}"] = 100 * float(values[of_kind == kind].mean())
        return figures


@dataclass(frozen=True)
class FileScores:
    """Scores of a file of predictions.

    Attributes:
        figures: Per cent by name, of all samples and, where there are two, of each kind of sentence.
        bad: Annotations that could not be used, one line each.
    """

    figures: dict[str, dict[str, float]]
    bad: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"figures": self.figures, "bad": self.bad}


def score_files(predictions: Path, truths: Path, convention: str, *, peer_compat: bool = False) -> FileScores:
    """Score predicted tubes against annotations; see `zoo.data.tubes` for the forms of both files.

    Raises:
        UsageError: No such convention, or it asks for what the annotations do not say.
        InputError: A file cannot be read, or does not hold what it should.
    """
    if convention not in get_args(Convention):
        raise UsageError(f"no convention {convention!r}", hint=", ".join(get_args(Convention)))
    known = read_annotations(truths, peer_compat=peer_compat)
    if not known.samples:
        raise InputError(f"{truths} holds no annotation that can be used", hint=known.bad[0] if known.bad else None)
    found = read_predictions(predictions, known.samples)
    tubes = {sample.key: sample.tube for sample in known.samples}
    try:
        whole = grounding_scores(found, tubes, convention)  # type: ignore[arg-type]  # looked up above
    except ValueError as error:
        raise UsageError(f"{predictions}: {error}", hint="keys are the videos' names, as in the annotations") from None
    kinds = np.array([sample.kind for sample in known.samples])
    figures = {"all": _per_cent(whole)}
    if len(set(kinds)) > 1:
        figures |= {kind: _per_cent(whole.only(kinds == kind)) for kind in sorted(set(kinds))}
    return FileScores(figures, known.bad)


def _per_cent(scores: GroundingScores) -> dict[str, float]:
    return {name: 100 * value if "IoU" in name else value for name, value in scores.to_dict().items()}


@torch.inference_mode()
def score_scenes(
    model: nn.Module,
    seeds: Sequence[int],
    device: torch.device,
    *,
    sentences: Sequence[str] | None = None,
    side: int = 64,
) -> SceneScores:
    """Find the target of each scene and compare.

    Args:
        model: An `STVGFormer` with the words of drawn scenes.
        seeds: Of the scenes.
        device: Where the network is.
        sentences: One a scene in place of its own.
        side: Pixels a side.
    """
    bare = STVGFormer.of(model)
    found, truths, kinds = [], [], []
    was_training = bare.training
    bare.eval()
    for at in range(0, len(seeds), AT_ONCE):
        clips = [film_scene(plan_scene(int(seed), bare.frames), side) for seed in seeds[at : at + AT_ONCE]]
        asked = sentences[at : at + AT_ONCE] if sentences else [clip.scene.sentence for clip in clips]
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(device).movedim(-1, 2).float() / 255
        answer = bare(frames, read_words(asked, bare.vocabulary).to(device))
        boxes = to_corners(answer.boxes).cpu().double().numpy()
        for clip, corners, scores in zip(clips, boxes, answer.scores, strict=True):
            start, last = best_span(scores)
            truth = clip.scene.span
            found.append(FrameTube(start, last + 1, corners, 0))
            truths.append(FrameTube(truth.start, truth.end, clip.boxes[0].astype(np.float64), 0))
            kinds.append(clip.scene.kind)
    bare.train(was_training)
    return SceneScores(grounding_scores(found, truths), tuple(kinds))


def best_span(scores: Tensor) -> tuple[int, int]:
    """First and last step of the span with the highest of (T, T) scores."""
    steps = len(scores)
    allowed = scores.masked_fill(~valid_spans(steps, None, scores.device)[0], -torch.inf)
    best = int(allowed.argmax())
    return best // steps, best % steps
