"""ZooClips: short films of drawn people, made from a seed alone, with sentences that are true of them.

A scene is sky above ground; people stand in lanes and walk, jump, wave, bend or spin. Lengths are shares of the
picture's side S or of a person's height h. T frames, P people.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIONS",
    "GROUNDS",
    "LANES",
    "SPLITS",
    "TOPS",
    "TROUSERS",
    "Person",
    "Plan",
    "Pose",
    "film",
    "new_person",
    "plan_clip",
    "pose",
    "render",
    "tight_box",
]

Colour = tuple[int, int, int]

SKY, SKIN, STRIPE = (170, 200, 230), (224, 172, 140), (255, 255, 255)
HORIZON = 0.45  # of S, from above
GROUNDS: dict[str, Colour] = {
    "grass": (96, 150, 80),
    "sand": (210, 190, 140),
    "concrete": (150, 150, 150),
    "snow": (225, 232, 240),
}
TOPS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "yellow": (240, 210, 40),
    "purple": (130, 50, 160),
    "orange": (245, 130, 30),
    "white": (240, 240, 240),
    "black": (25, 25, 25),
}
TROUSERS: dict[str, Colour] = {"gray": (120, 120, 125), "brown": (110, 70, 40), "navy": (30, 30, 80)}
LANES = (0.18, 0.5, 0.82)  # of S
ACTIONS = {
    "walk_left": "walks to the left",
    "walk_right": "walks to the right",
    "jump": "jumps up and down",
    "wave": "waves a hand",
    "bend": "bends down and stands up",
    "spin": "spins around",
}
STRIDE = 0.30  # of S, from the beginning of a walk to its end
SPLITS = {"train": range(10_000, 13_000), "test": range(90_000, 90_200)}
CLIP_GRAIN, FRAME_GRAIN = 6.0, 4.0  # standard deviations, of 255


@dataclass(frozen=True)
class Person:
    """Somebody in a scene.

    Attributes:
        top: A key of `TOPS`.
        trousers: A key of `TROUSERS`.
        x: Where the middle stands, of S from the left.
        feet: Where the feet stand, of S from above.
        height: Of S.
    """

    top: str
    trousers: str
    x: float
    feet: float
    height: float


@dataclass(frozen=True)
class Pose:
    """What an action makes of a person at one moment; the default stands still.

    Attributes:
        shift: To the right, of S.
        swing: A leg's foot before the hip, the other's behind it, of h.
        lift: Above the ground, of h.
        sway: The hand of the raised arm to the right of its shoulder, of h; None leaves the arm down.
        squeeze: Factor of the height.
        breadth: Factor of the torso's width.
        is_back: Whether the back is seen, which has a stripe.
    """

    shift: float = 0.0
    swing: float = 0.0
    lift: float = 0.0
    sway: float | None = None
    squeeze: float = 1.0
    breadth: float = 1.0
    is_back: bool = False


def pose(action: str | None, progress: float) -> Pose:
    """The pose of an action, a key of `ACTIONS` or None for standing still, at a progress in (0, 1]."""
    u = progress
    match action:
        case None:
            return Pose()
        case "walk_left" | "walk_right":
            way = STRIDE * u if action == "walk_right" else -STRIDE * u
            return Pose(shift=way, swing=0.10 * sin(6 * pi * u))
        case "jump":
            return Pose(lift=0.30 * abs(sin(2 * pi * u)))
        case "wave":
            return Pose(sway=0.10 * sin(4 * pi * u))
        case "bend":
            return Pose(squeeze=1 - 0.45 * sin(pi * u))
        case "spin":
            return Pose(breadth=max(0.35, abs(cos(2 * pi * u))), is_back=cos(2 * pi * u) < 0)
    raise ValueError(f"no action {action!r}; one of {', '.join(ACTIONS)}")


def new_person(top: str, lane: float, rng: np.random.Generator) -> Person:
    """Somebody of a random size in random trousers."""
    height, feet = rng.uniform(0.34, 0.46), rng.uniform(0.80, 0.96)
    return Person(top, str(rng.choice(list(TROUSERS))), lane, feet, height)


def render(
    ground: str,
    people: Sequence[Person],
    poses: Sequence[Sequence[Pose]],
    side: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A film of people in a scene.

    Args:
        ground: A key of `GROUNDS`.
        people: P of them; who stands lower in the picture is drawn over who stands higher.
        poses: T poses of each.
        side: Pixels a side.
        rng: Source of the grain.

    Returns:
        (T, S, S, 3) pixels, and (P, T, S, S) the pixels that each person was drawn on, also where somebody nearer
        was drawn over them.
    """
    length = len(poses[0])
    empty = np.empty((side, side, 3), np.float32)
    empty[:] = GROUNDS[ground]
    empty[: round(HORIZON * side)] = SKY
    empty += CLIP_GRAIN * rng.standard_normal(empty.shape, np.float32)
    drawn = np.zeros((len(people), length, side, side), np.bool_)
    frames = np.empty((length, side, side, 3), np.uint8)
    back_to_front = sorted(range(len(people)), key=lambda i: people[i].feet)
    for t in range(length):
        canvas = empty.copy()
        for i in back_to_front:
            _draw(canvas, drawn[i, t], people[i], poses[i][t])
        canvas += FRAME_GRAIN * rng.standard_normal(canvas.shape, np.float32)
        frames[t] = canvas.clip(0, 255).round()
    return frames, drawn


def tight_box(drawn: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The smallest box (left, top, right, bottom), right and bottom exclusive, around pixels; None without any."""
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw(canvas: NDArray[np.float32], drawn: NDArray[np.bool_], person: Person, seen: Pose) -> None:
    """Paint a person: legs, arms, torso, head, in that order."""
    side = len(canvas)
    h = person.height * side
    x = (person.x + seen.shift) * side
    feet = person.feet * side - seen.lift * h
    tall = h * seen.squeeze
    head = feet - tall  # the top of it
    top, trousers = TOPS[person.top], TROUSERS[person.trousers]
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for _ in range(2))

    def limb(start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A stripe of a width in pixels between two heights, leaning from one middle to the other."""
        (x0, y0), (x1, y1) = start, end
        inner = slice(*np.searchsorted(rows, [min(y0, y1), max(y0, y1)]))
        middle = x0 + (x1 - x0) * (rows[inner] - y0) / (y1 - y0)
        paint(inner, np.abs(columns - middle[:, None]) <= width / 2, colour)

    def paint(inner: slice, where: NDArray[np.bool_], colour: Colour) -> None:
        canvas[inner][where] = colour
        drawn[inner] |= where

    hip, shoulder, chest = head + 0.58 * tall, head + 0.24 * tall, 0.17 * h * seen.breadth
    for sign in (-1, 1):
        at = x + sign * 0.09 * h * seen.breadth
        limb((at, hip), (at + sign * seen.swing * h, feet), 0.12 * h, trousers)
        arm = x + sign * (chest + 0.035 * h)
        if sign == 1 and seen.sway is not None:
            limb((arm, shoulder + 0.04 * tall), (arm + seen.sway * h, head - 0.06 * tall), 0.07 * h, top)
        else:
            limb((arm, shoulder), (arm, head + 0.56 * tall), 0.07 * h, top)
    limb((x, head + 0.22 * tall), (x, head + 0.60 * tall), 2 * chest, top)
    if seen.is_back:
        limb((x, head + 0.26 * tall), (x, head + 0.56 * tall), 0.08 * h, STRIPE)
    far = (columns - x) ** 2 + (rows[:, None] - (head + 0.12 * tall)) ** 2
    paint(slice(None), far <= (0.11 * h) ** 2, SKIN)


@dataclass(frozen=True)
class Plan:
    """What a retrieval clip shows: 2 or 3 people with different tops, each doing one thing for the whole clip.

    Attributes:
        seed: What it was made from.
        ground: A key of `GROUNDS`.
        people: Who is there.
        actions: What each does.
    """

    seed: int
    ground: str
    people: tuple[Person, ...]
    actions: tuple[str, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """A sentence for each person."""
        return tuple(
            f"a person in {person.top} and {person.trousers} trousers {ACTIONS[action]} on {self.ground}"
            for person, action in zip(self.people, self.actions, strict=True)
        )


def plan_clip(seed: int) -> Plan:
    """What the retrieval clip of a seed shows."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 4))
    ground = str(rng.choice(list(GROUNDS)))
    tops = rng.choice(list(TOPS), count, replace=False)
    lanes = rng.choice(LANES, count, replace=False)
    actions = tuple(map(str, rng.choice(list(ACTIONS), count)))
    people = (new_person(str(top), float(lane), rng) for top, lane in zip(tops, lanes, strict=True))
    half = {"walk_left": STRIDE / 2, "walk_right": -STRIDE / 2}  # a walk passes the middle of its lane half-way
    placed = tuple(
        replace(person, x=person.x + half.get(action, 0.0)) for person, action in zip(people, actions, strict=True)
    )
    return Plan(seed, ground, placed, actions)


def film(plan: Plan, frames: int = 4, side: int = 64) -> NDArray[np.uint8]:
    """The clip of a plan, (T, S, S, 3); frame t shows the progress (t + 1) / T of the actions."""
    poses = [[pose(action, (t + 1) / frames) for t in range(frames)] for action in plan.actions]
    return render(plan.ground, plan.people, poses, side, np.random.default_rng((plan.seed, 1)))[0]
