"""ZooClips-G: films of three drawn people, and a sentence that is true of one of them for a part of the time.

The kinds separate what looks can tell from what movement can tell. T frames, S pixels a side.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.data.zooclips import ACTIONS, GROUNDS, LANES, STRIDE, TOPS, Person, Pose, new_person, pose, render, tight_box

__all__ = ["KINDS", "SPLITS", "Clip", "Part", "Scene", "absent_sentence", "film_scene", "plan_scene"]

Kind = Literal["S", "D", "SD"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS = {"train": range(100_000, 103_000), "val": range(400_000, 400_100), "test": range(500_000, 500_300)}
PART = (0.25, 0.42)  # of T: the shortest and the longest action
HALF = {"walk_left": STRIDE / 2, "walk_right": -STRIDE / 2}  # where a walk begins, so that it passes its lane half-way


@dataclass(frozen=True)
class Part:
    """An action from a frame to the one before another: [start, end)."""

    action: str
    start: int
    end: int


@dataclass(frozen=True)
class Scene:
    """What a film shows.

    Attributes:
        seed: What it was made from.
        kind: "S" where looks alone tell who is meant, "D" where movement alone does, "SD" where it takes both.
        ground: A key of `GROUNDS`.
        people: The target first.
        parts: Of each of the people, two actions, apart and in order.
        asked: Which of the target's two the sentence speaks of.
        frames: T.
    """

    seed: int
    kind: Kind
    ground: str
    people: tuple[Person, ...]
    parts: tuple[tuple[Part, Part], ...]
    asked: int
    frames: int

    @property
    def sentence(self) -> str:
        """True of the target, in the asked part, and of nobody else."""
        return self.sentence_of(0, self.asked)

    def sentence_of(self, person: int, part: int) -> str:
        """What somebody wears and does in one of the two parts; others may wear and do the same."""
        return f"the person in {self.people[person].top} {ACTIONS[self.parts[person][part].action]}"

    @property
    def span(self) -> Part:
        """The part that the sentence speaks of."""
        return self.parts[0][self.asked]


@dataclass(frozen=True)
class Clip:
    """A film with what is true of it.

    Attributes:
        scene: What it shows.
        frames: (T, S, S, 3) uint8.
        boxes: (P, T, 4) float32 of each of the people: left, top, right and bottom as shares of the side; the target's
            first.
    """

    scene: Scene
    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def plan_scene(seed: int, frames: int = 10) -> Scene:
    """What the film of a seed shows; `frames` sets the lengths of its parts as well."""
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(3)]
    ground = str(rng.choice(list(GROUNDS)))
    lanes = rng.permutation(LANES)
    tops = [str(top) for top in rng.choice(list(TOPS), 3, replace=False)]
    if kind == "D":
        tops = [tops[0]] * 3
    elif kind == "SD":
        tops[1] = tops[0]
    own = _draw_actions(rng)
    asked = int(rng.integers(2))
    others = [_draw_actions(rng), _draw_actions(rng)]
    if kind == "D":
        others = [_draw_actions(rng, without=own[asked]) for _ in others]
    elif kind == "SD":  # one in the same top who never does it, one in another top who does
        others = [_draw_actions(rng, without=own[asked]), _draw_actions(rng, holding=own[asked])]
    parts = tuple(_place(actions, frames, rng) for actions in (own, *others))
    people = tuple(
        _ready(new_person(top, float(lane), rng), first.action, second.action)
        for top, lane, (first, second) in zip(tops, lanes, parts, strict=True)
    )
    return Scene(seed, kind, ground, people, parts, asked, frames)


def film_scene(scene: Scene, side: int = 64, only: int | None = None) -> Clip:
    """The film of a scene, or one frame of it, whose grain is another than in the film."""
    poses = [list(_poses(parts, scene.frames)) for parts in scene.parts]
    if only is not None:
        poses = [of_one[only : only + 1] for of_one in poses]
    rng = np.random.default_rng((scene.seed, 1))
    frames, drawn = render(scene.ground, scene.people, poses, side, rng)
    boxes = np.zeros((*drawn.shape[:2], 4), np.float32)
    for person, film in enumerate(drawn):
        for t, pixels in enumerate(film):
            box = tight_box(pixels)
            assert box is not None  # nobody leaves the picture
            boxes[person, t] = np.array(box) / side
    return Clip(scene, frames, boxes)


def absent_sentence(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that is true of nobody in a scene: a top that nobody wears, or something that its wearers never do."""
    worn = {person.top for person in scene.people}
    if rng.random() < 0.5:
        top = str(rng.choice([top for top in TOPS if top not in worn]))
        done: set[str] = set()
    else:
        top = scene.people[0].top
        wearers = (parts for person, parts in zip(scene.people, scene.parts, strict=True) if person.top == top)
        done = {part.action for parts in wearers for part in parts}
    never = [action for action in ACTIONS if action not in done]
    if not never:  # three wearers between them can do all six
        return absent_sentence(scene, rng)
    return f"the person in {top} {ACTIONS[str(rng.choice(never))]}"


def _draw_actions(rng: np.random.Generator, *, without: str = "", holding: str = "") -> tuple[str, str]:
    """Two different actions in a random order."""
    free = [action for action in ACTIONS if action not in (without, holding)]
    drawn = [str(action) for action in rng.choice(free, 1 if holding else 2, replace=False)]
    first, second = rng.permutation([*drawn, holding] if holding else drawn)
    return str(first), str(second)


def _place(actions: tuple[str, str], frames: int, rng: np.random.Generator) -> tuple[Part, Part]:
    """Two parts with at least one idle frame between them, wherever there is room."""
    first, second = (max(1, round(rng.uniform(*PART) * frames)) for _ in actions)
    room = frames - first - second - 1
    before, after = sorted(int(x) for x in rng.integers(0, room + 1, 2))
    start = before + first + 1 + after - before
    return Part(actions[0], before, before + first), Part(actions[1], start, start + second)


def _ready(person: Person, first: str, second: str) -> Person:
    """Somebody where the first walk, if there is one, begins."""
    return replace(person, x=person.x + HALF.get(first, HALF.get(second, 0.0)))


def _poses(parts: tuple[Part, Part], frames: int) -> Iterator[Pose]:
    """Standing still between actions, at the place that a walk led to."""
    walked = 0.0
    for t in range(frames):
        part = next((part for part in parts if part.start <= t < part.end), None)
        seen = pose(part.action, (t + 1 - part.start) / (part.end - part.start)) if part else Pose()
        yield replace(seen, shift=seen.shift + walked)
        if part and t == part.end - 1:
            walked += seen.shift
