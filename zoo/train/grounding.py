"""What a grounding network learns from: drawn scenes, first single frames of them, then whole films."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.zooclips_ground import SPLITS, Clip, absent_sentence, film_scene, plan_scene
from zoo.errors import UsageError
from zoo.layers.wrapped import unwrapped
from zoo.models.stvgformer import Grounding, STVGFormer
from zoo.models.stvgformer_encoders import read_words
from zoo.tasks.ground_score import by_kind, score_scenes
from zoo.train.course import Place
from zoo.train.recipe import Recipe

__all__ = ["NAME", "Films", "GroundingMethod", "SceneCourse"]

NAME = "zooclips_ground"
ORDER, STILLS, ABSENT = 20, 21, 22  # streams of chance beside the seed's own
SIDE = 64


class Films(NamedTuple):
    """Films of one length, their sentences, and what is true.

    Attributes:
        frames: (B, T, 3, H, W) in [0, 1].
        sentences: B.
        boxes: (B, T, 4): centre, width and height as shares of the picture's sides.
        marked: (B, T), True where the box is annotated.
        spans: (B, 3): start, end and the film's duration, in one unit; start and end 0 where nobody is meant.
        bad: What could not be read.
    """

    frames: Tensor
    sentences: list[str]
    boxes: Tensor
    marked: Tensor
    spans: Tensor
    bad: list[str] = []  # noqa: RUF012 - nobody writes into it

    def parts(self, count: int) -> list["Films"]:
        """The same in equal parts."""
        size = len(self.frames) // count
        cuts = [slice(at, at + size) for at in range(0, size * count, size)]
        return [
            Films(self.frames[cut], self.sentences[cut], self.boxes[cut], self.marked[cut], self.spans[cut])
            for cut in cuts
        ]

    def to(self, device: torch.device) -> "Films":
        """The same on a device."""
        moved = (tensor.to(device) for tensor in (self.frames, self.boxes, self.marked, self.spans))
        frames, boxes, marked, spans = moved
        return Films(frames, self.sentences, boxes, marked, spans, self.bad)


class GroundingMethod(Protocol):
    """What the course asks of its method."""

    @property
    def static_epochs(self) -> int:
        """Epochs of single frames, for the static stream alone."""

    @property
    def static_batch(self) -> int:
        """Frames a step in them."""

    @property
    def absent(self) -> float:
        """Share of the films that are asked for somebody who is not there."""

    def grounding_loss(self, found: Grounding, truth: Films) -> Tensor:
        """Mean loss over films that lie on the network's device."""


class SceneCourse:
    """Drawn scenes: stills of those in which looks alone decide for the first epochs, films after them.

    Args:
        recipe: What to do; `data.split` and `data.eval_split` name sets of seeds.
        method: Whose loss it is.
        place: Where.

    Raises:
        UsageError: There are no such scenes, or fewer than a batch.
    """

    def __init__(self, recipe: Recipe, method: GroundingMethod, place: Place) -> None:
        self.recipe, self.method, self.place = recipe, method, place
        self.seeds = _seeds(recipe.data.split)
        self.exam = _seeds(recipe.data.eval_split) if recipe.data.eval_split else range(0)
        self.steps = len(self.seeds) // recipe.schedule.batch_size
        if not self.steps:
            raise UsageError(f"{len(self.seeds)} scenes are fewer than a batch", hint="lower schedule.batch_size")
        self.count = len(self.seeds) + len(self.exam)
        self.builder_args: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.main = f"{recipe.data.eval_split}_m_vIoU" if self.exam else ""
        self.bad: dict[str, None] = {}
        self.plain = [seed for seed in self.seeds if plan_scene(seed).kind == "S"]

    def begin(self) -> None:
        """Nothing here needs chance before the first step."""

    def batches(self, epoch: int, first: int) -> Iterator[Films]:
        size, seed, mine = (
            self.recipe.schedule.batch_size,
            self.recipe.seed,
            slice(self.place.rank, None, self.place.world),
        )
        order = np.random.default_rng((seed, ORDER, epoch)).permutation(self.seeds)
        for step in range(first, self.steps):
            if epoch < self.method.static_epochs:
                yield self._stills(np.random.default_rng((seed, STILLS, epoch, step)), mine)
            else:
                seeds = order[step * size :][:size][mine].tolist()
                yield self._with_absent(_films([film_scene(plan_scene(of), SIDE) for of in seeds]), seeds, epoch)

    def _with_absent(self, films: Films, seeds: Sequence[int], epoch: int) -> Films:
        """The same films, some of them asked for somebody who is not there: no box, and a span of no length."""
        sentences, marked, spans = list(films.sentences), films.marked.clone(), films.spans.clone()
        for row, seed in enumerate(seeds):
            rng = np.random.default_rng((self.recipe.seed, ABSENT, epoch, seed))
            if rng.random() < self.method.absent:
                sentences[row] = absent_sentence(plan_scene(seed), rng)
                marked[row] = False
                spans[row, :2] = 0
        return films._replace(sentences=sentences, marked=marked, spans=spans)

    def _stills(self, rng: np.random.Generator, mine: slice) -> Films:
        """One frame each of scenes with three different tops, so that any of the three can be the one that is meant."""
        count = self.method.static_batch
        clips, people, parts = [], rng.integers(3, size=count)[mine], rng.integers(2, size=count)[mine]
        moments = rng.random(count)[mine]
        for seed, moment in zip(rng.choice(self.plain, count)[mine], moments, strict=True):
            scene = plan_scene(int(seed))
            clips.append(film_scene(scene, SIDE, only=int(moment * scene.frames)))
        drawn = _films(clips, people.tolist())
        asked = zip(clips, people, parts, strict=True)
        return drawn._replace(sentences=[clip.scene.sentence_of(int(who), int(part)) for clip, who, part in asked])

    def loss(self, model: nn.Module, part: Films) -> Tensor:
        films = part.to(self.place.device)
        words = read_words(part.sentences, unwrapped(model, STVGFormer).vocabulary).to(self.place.device)
        return self.method.grounding_loss(model(films.frames, words, static_only=films.frames.shape[1] == 1), films)

    def measure(self, model: nn.Module) -> dict[str, float]:
        if not self.exam:
            return {}
        figures = by_kind(*score_scenes(model, self.exam, self.place.device))
        prefix = self.recipe.data.eval_split
        whole = {f"{prefix}_{name}": value for name, value in figures.pop("all").items() if "IoU" in name}
        kinds = {f"{prefix}_{kind}_m_vIoU": row["m_vIoU"] for kind, row in figures.items()}
        return whole | kinds


def _seeds(split: str) -> range:
    if split not in SPLITS:
        raise UsageError(f"{NAME} has no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    return SPLITS[split]


def _films(clips: Sequence[Clip], people: Sequence[int] | None = None) -> Films:
    """Films of clips of one length, with the target's boxes or those of somebody else."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).movedim(-1, 2).float() / 255
    who = people if people is not None else [0] * len(clips)
    boxes = np.stack([clip.boxes[person] for clip, person in zip(clips, who, strict=True)])
    corners = torch.from_numpy(boxes)
    centred = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)
    length = frames.shape[1]
    spans = [(0, 1, 1) if length == 1 else (c.scene.span.start, c.scene.span.end, length) for c in clips]
    limits = torch.tensor(spans, dtype=torch.float32)
    at = torch.arange(length)
    marked = (at >= limits[:, :1]) & (at < limits[:, 1:2])
    return Films(frames, [clip.scene.sentence for clip in clips], centred, marked, limits)
