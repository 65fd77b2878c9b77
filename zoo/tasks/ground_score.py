"""How well a grounding network finds who is meant in drawn scenes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.zooclips_ground import KINDS, film_scene, plan_scene
from zoo.metrics.grounding import FrameTube, GroundingScores, grounding_scores
from zoo.models.stvgformer import STVGFormer
from zoo.models.stvgformer_blocks import valid_spans
from zoo.models.stvgformer_encoders import read_words
from zoo.tasks.ground import to_corners

__all__ = ["SceneScores", "best_span", "score_scenes"]

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
        whole = self.scores.to_dict()
        figures = {name: 100 * whole[name] for name in ("m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_tIoU", "m_sIoU")}
        of_kind = np.array(self.kinds)
        for kind in KINDS:
            for name, values in (("vIoU", self.scores.viou), ("tIoU", self.scores.tiou), ("sIoU", self.scores.siou)):
                figures[f"{kind}_{name}"] = 100 * float(values[of_kind == kind].mean())
        return figures


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
