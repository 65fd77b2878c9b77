"""Drawn people before six cameras, four visible and two infrared: pictures that may be given away.

What a person is and how it is seen follow from the seed, the identity, the camera and the picture's number alone, so
pictures come out the same in any order and in any number of processes. A person has a shape; cues that both modalities
show and the silhouette does not (bare arms, an emblem, straps, boots); colours, which infrared does not show; and in
near infrared reflectances, which colours do not show. So appearance says nothing across modalities, while shape and the
shared cues do.

Lengths are fractions of a person's height, pixels those of a picture 288 high; smaller pictures scale both.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["INFRARED", "PLACES", "VISIBLE", "Person", "Renderer", "Shot", "person", "picture", "shot", "shown"]

Renderer = Literal["thermal", "nir"]
Array = NDArray[np.float64]
Point = tuple[float, float]

VISIBLE, INFRARED = (1, 2, 4, 5), (3, 6)
PLACES = {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}  # cameras 2 and 3 see the same room
WHOLE = 288  # height that lengths in pixels are given for

LABELS = ("background", "skin", "hair", "upper", "lower", "shoe", "bag", "mark", "strap", "face")
BACKGROUND, SKIN, HAIR, UPPER, LOWER, SHOE, BAG, MARK, STRAP, FACE = range(len(LABELS))
EMISSION = (0.0, 0.95, 0.55, 0.62, 0.58, 0.35, 0.28, 0.40, 0.40, 0.45)
REFLECTANCE = (0.0, 0.75, 0.35, 0.0, 0.0, 0.3, 0.0, 0.95, 0.3, 0.2)

# mean 1, deviation, smallest, largest
SHAPE = {
    "stature": (0.06, 0.84, 1.16),
    "shoulder": (0.12, 0.72, 1.3),
    "hip": (0.12, 0.75, 1.3),
    "torso": (0.07, 0.86, 1.15),
    "girth": (0.15, 0.7, 1.45),
    "head": (0.08, 0.85, 1.18),
    "arm": (0.15, 0.7, 1.4),
    "leg": (0.15, 0.7, 1.4),
}
OUTLINE = {
    "hair": ("short", "long", "bun", "cap"),
    "garment": ("trousers", "wide", "shorts", "skirt"),
    "bag": ("none", "backpack", "side", "hand"),
    "bag_side": ("left", "right"),
}
SHARED = {
    "sleeve": ("none", "short", "long"),
    "shins": ("covered", "bare"),
    "emblem": ("none", "square", "disc", "band", "stripes"),
    "strap": ("none", "falling", "rising", "two"),
    "zipper": ("no", "yes"),
    "belt": ("no", "yes"),
    "calf_band": ("no", "yes"),
    "face": ("bare", "glasses", "mask"),
    "fringe": ("high", "middle", "low"),
    "boots": ("no", "yes"),
}
COATS = (0.0, 0.0, 0.08, 0.2)
TEXTURES = ("plain", "horizontal", "vertical", "check")


@dataclass(frozen=True)
class Person:
    """What a person is.

    Attributes:
        sizes: Factors of the silhouette, around 1.
        depth: Depth of the body by its width.
        coat: How far a coat falls below the hip.
        outline: Hair, lower garment and bag.
        shared: Cues that both modalities show and the silhouette does not.
        colours: (10, 3) a label, 0 to 255.
        second: (3,) colour of the upper garment's texture.
        texture: Its kind.
        period: Of it, in pixels.
        reflectance: (10,) a label, in near infrared.
    """

    sizes: dict[str, float]
    depth: float
    coat: float
    outline: dict[str, str]
    shared: dict[str, str]
    colours: Array
    second: Array
    texture: str
    period: float
    reflectance: Array

    def shape_factors(self) -> Array:
        """What a silhouette could tell: sizes as 6 (factor - 1), depth, coat times 5, categories one-hot."""
        sizes = [6 * (value - 1) for value in (*self.sizes.values(), self.depth)]
        return np.array([*sizes, 5 * self.coat, *_one_hot(self.outline, OUTLINE)])

    def shared_factors(self) -> Array:
        """The shared cues, one-hot."""
        return np.array(_one_hot(self.shared, SHARED))


@dataclass(frozen=True)
class Shot:
    """How a person is seen in one picture.

    Attributes:
        yaw: Radians; 0 faces the camera.
        phase: Of the gait, radians.
        height: Of the person in pixels.
        shift: Right and down, in pixels.
        gain: Of the light.
        offset: Of the light, 0 to 255.
        base: Temperature of the background.
        drift: Of the garments' temperature.
        contrast: Of the infrared camera.
        scene: Right and down, pixels by which the background is shifted.
    """

    yaw: float
    phase: float
    height: float
    shift: Point
    gain: float
    offset: float
    base: float
    drift: float
    contrast: float
    scene: tuple[int, int]


def person(seed: int, pid: int) -> Person:
    """The person of a seed and an identity."""
    rng = default_rng([seed, 7, pid])
    sizes = {name: float(np.clip(rng.normal(1, s), low, high)) for name, (s, low, high) in SHAPE.items()}
    depth = rng.uniform(0.5, 0.75)
    outline = {name: str(rng.choice(kinds)) for name, kinds in OUTLINE.items()}
    coat = float(rng.choice(COATS))
    shared = {name: str(rng.choice(kinds)) for name, kinds in SHARED.items()}
    colours = np.zeros((len(LABELS), 3))
    for label in (UPPER, LOWER, BAG, SHOE, MARK, STRAP, FACE):
        colours[label] = _colour(rng)
    colours[SKIN] = rng.uniform(0.35, 1) * np.array([235, 190, 160])
    colours[HAIR] = rng.uniform(0.1, 0.9) * np.array([210, 170, 110])
    second = 0.7 * colours[UPPER] + 0.3 * _colour(rng)
    reflectance = np.array(REFLECTANCE)
    reflectance[[UPPER, LOWER, BAG]] = rng.uniform([0.4, 0.35, 0.2], [0.8, 0.75, 0.6])
    return Person(
        sizes,
        depth,
        coat,
        outline,
        shared,
        colours,
        second,
        str(rng.choice(TEXTURES)),
        rng.uniform(5, 14),
        reflectance,
    )


def shot(rng: Generator, stature: float) -> Shot:
    """A shot at random."""
    return Shot(
        yaw=rng.uniform(-np.pi, np.pi),
        phase=rng.uniform(0, 2 * np.pi),
        height=0.80 * WHOLE * stature * rng.uniform(0.95, 1.05),
        shift=(rng.uniform(-8, 8), rng.uniform(-8, 8)),
        gain=rng.uniform(0.75, 1.2),
        offset=rng.uniform(-15, 15),
        base=rng.uniform(0.12, 0.32),
        drift=rng.uniform(-0.06, 0.06),
        contrast=rng.uniform(0.85, 1.1),
        scene=(int(rng.integers(-18, 19)), int(rng.integers(-18, 19))),
    )


def picture(
    seed: int, pid: int, camera: int, number: int, size: tuple[int, int], renderer: Renderer = "thermal"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One photograph, (H, W, 3), and its body-shape map, (H, W).

    Args:
        seed: Of the whole set.
        pid: Identity.
        camera: 1 to 6; 3 and 6 are infrared.
        number: Of the picture, from 1.
        size: Height and width in pixels.
        renderer: How infrared looks.
    """
    who = person(seed, pid)
    rng = default_rng([seed, pid, camera, number])
    return shown(who, shot(rng, who.sizes["stature"]), rng, seed, camera, size, renderer)


def shown(
    who: Person,
    view: Shot,
    rng: Generator,
    seed: int,
    camera: int,
    size: tuple[int, int],
    renderer: Renderer = "thermal",
    infrared: bool | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photograph and shape map of a person in a shot; `rng` draws noise and the parser's failures.

    Args:
        who: The person.
        view: The shot.
        rng: Source of noise.
        seed: Of the whole set.
        camera: Whose place and colour cast are seen.
        size: Height and width in pixels.
        renderer: How infrared looks.
        infrared: Whether it is infrared; by default what the camera is.
    """
    body = _Body(who, view, size)
    is_infrared = camera in INFRARED if infrared is None else infrared
    scene = _scene(seed, PLACES[camera], size, view.scene) + _clouds(rng, size)
    soft = _halved((body.labels > BACKGROUND).astype(np.float64))
    if not is_infrared:
        image = _visible(body, scene, soft, seed, camera)
        image += rng.normal(0, 4, image.shape)
    else:
        grey = scene @ (0.299, 0.587, 0.114) / 255
        made = _thermal(body, grey, soft) if renderer == "thermal" else _nir(body, grey, soft, rng)
        blurred = _blurred(255 * made, 1.2 * size[0] / WHOLE)
        image = np.repeat((blurred + rng.normal(0, 5, size))[:, :, None], 3, 2)
    return _bytes(image), _shape_map(body.labels, rng, size, is_infrared)


class _Body:
    """Labels of a person at twice the size, with what shading and texture need of its geometry.

    Args:
        who: The person.
        view: The shot.
        size: Height and width of the picture.
    """

    def __init__(self, who: Person, view: Shot, size: tuple[int, int]) -> None:
        self.who, self.view = who, view
        self.scale = 2 * size[0] / WHOLE
        self.unit = view.height * self.scale
        height, width = 2 * size[0], 2 * size[1]
        self.axis = width / 2 + view.shift[0] * self.scale
        self.top = (height - self.unit) / 2 + view.shift[1] * self.scale
        self.cos, self.sin = np.cos(view.yaw), np.sin(view.yaw)
        self.facing = 1.0 if self.sin >= 0 else -1.0
        sizes = who.sizes
        girth = np.sqrt(sizes["girth"])
        turned = np.sqrt(self.cos**2 + (who.depth * self.sin) ** 2) * girth
        self.shoulder = 0.118 * sizes["shoulder"] * turned
        self.hip = 0.088 * sizes["hip"] * turned
        self.hip_line = 0.178 + 0.325 * sizes["torso"]
        self.arm, self.leg = 0.030 * sizes["arm"] * girth, 0.052 * sizes["leg"] * girth
        self.swing = (0.12 + 0.38 * abs(self.sin)) * np.sin(view.phase)
        self.image = Image.new("L", (width, height), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)
        self._paint()
        self.labels = np.asarray(self.image)

    def _paint(self) -> None:
        bag, behind = self.who.outline["bag"], self.cos < 0
        far = -1.0 if self.sin >= 0 else 1.0  # the arm on the far side of the body
        if bag == "backpack" and not behind:
            self._backpack()
        self._arm(far)
        for side in (far, -far):
            self._leg(side)
        self._torso()
        self._marks(behind)
        self._head(behind)
        if bag == "backpack" and behind:
            self._backpack()
        self._arm(-far)
        self._bag()

    def _at(self, x: float, y: float) -> Point:
        return self.axis + x * self.unit, self.top + y * self.unit

    def _polygon(self, points: list[Point], label: int) -> None:
        self.draw.polygon([self._at(*point) for point in points], fill=label)

    def _ellipse(self, centre: Point, rx: float, ry: float, label: int) -> None:
        (x, y), rx, ry = self._at(*centre), rx * self.unit, ry * self.unit
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=label)

    def _box(self, left: float, top: float, right: float, bottom: float, label: int) -> None:
        self._polygon([(left, top), (right, top), (right, bottom), (left, bottom)], label)

    def _capsule(self, a: Point, b: Point, ra: float, rb: float, label: int) -> None:
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = np.hypot(dx, dy) or 1.0
        nx, ny = -dy / length, dx / length
        self._polygon(
            [
                (a[0] + nx * ra, a[1] + ny * ra),
                (b[0] + nx * rb, b[1] + ny * rb),
                (b[0] - nx * rb, b[1] - ny * rb),
                (a[0] - nx * ra, a[1] - ny * ra),
            ],
            label,
        )
        self._ellipse(a, ra, ra, label)
        self._ellipse(b, rb, rb, label)

    def _limb(self, start: Point, angle: float, length: float) -> Point:
        return start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)

    def _hand(self, side: float) -> tuple[Point, Point, Point]:
        """Shoulder, elbow and wrist of an arm."""
        shoulder = (side * (0.118 * self.who.sizes["shoulder"] * self.cos * 0.95), 0.178 + 0.6 * self.arm)
        angle = -side * self.swing * self.facing + side * 0.09 * self.cos
        elbow = self._limb(shoulder, angle, 0.165)
        return shoulder, elbow, self._limb(elbow, angle + 0.15 * self.facing * abs(self.sin), 0.15)

    def _arm(self, side: float) -> None:
        shoulder, elbow, wrist = self._hand(side)
        sleeve = self.who.shared["sleeve"]
        self._capsule(elbow, wrist, 0.85 * self.arm, 0.7 * self.arm, UPPER if sleeve == "long" else SKIN)
        self._capsule(shoulder, elbow, self.arm, 0.85 * self.arm, SKIN if sleeve == "none" else UPPER)
        self._ellipse(wrist, 0.8 * self.arm, 0.9 * self.arm, SKIN)

    def _leg(self, side: float) -> None:
        shared, garment = self.who.shared, self.who.outline["garment"]
        length = 1 - self.hip_line
        hip = (side * 0.5 * 0.088 * self.who.sizes["hip"] * self.cos, self.hip_line)
        angle = side * self.swing * self.facing
        knee = self._limb(hip, angle, 0.48 * length)
        ankle = self._limb(knee, 0.7 * angle, 0.47 * length)
        wide = 1.35 if garment == "wide" else 1.0
        short = garment in ("shorts", "skirt")
        below = SKIN if short and shared["shins"] == "bare" else LOWER
        taper = 0.8 if garment == "wide" else 0.55
        self._capsule(knee, ankle, (wide if not short else 0.85) * 0.8 * self.leg, wide * taper * self.leg, below)
        self._capsule(hip, knee, wide * self.leg, wide * 0.85 * self.leg, LOWER)
        if shared["calf_band"] == "yes":
            a, b = (self._between(knee, ankle, share) for share in (0.35, 0.5))
            self._capsule(a, b, 0.75 * self.leg, 0.7 * self.leg, MARK)
        if shared["boots"] == "yes":
            self._capsule(self._between(knee, ankle, 0.6), ankle, 0.75 * self.leg, 0.65 * self.leg, SHOE)
        toe = (ankle[0] + 0.045 * self.sin, ankle[1] + 0.012)
        self._capsule(ankle, toe, 0.5 * self.leg, 0.4 * self.leg, SHOE)

    def _between(self, a: Point, b: Point, share: float) -> Point:
        return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])

    def _torso(self) -> None:
        self._polygon(
            [
                (-self.shoulder, 0.19),
                (-0.6 * self.shoulder, 0.165),
                (0.6 * self.shoulder, 0.165),
                (self.shoulder, 0.19),
                (self.hip, self.hip_line + 0.02),
                (-self.hip, self.hip_line + 0.02),
            ],
            UPPER,
        )
        if self.who.outline["garment"] == "skirt":
            knee = self.hip_line + 0.45 * (1 - self.hip_line)
            self._trapezoid(self.hip_line, self.hip, knee, 1.5 * self.hip, LOWER)
        if self.who.coat:
            self._trapezoid(self.hip_line, self.hip, self.hip_line + self.who.coat, 1.25 * self.hip, UPPER)

    def _trapezoid(self, top: float, above: float, bottom: float, below: float, label: int) -> None:
        self._polygon([(-above, top), (above, top), (below, bottom), (-below, bottom)], label)

    def _marks(self, behind: bool) -> None:
        shared, width = self.who.shared, self.shoulder
        emblem, middle = shared["emblem"], 0.27
        if emblem == "square":
            self._box(-0.45 * width, middle - 0.04, 0.45 * width, middle + 0.04, MARK)
        elif emblem == "disc":
            self._ellipse((0, middle), 0.5 * width, 0.045, MARK)
        elif emblem == "band":
            self._box(-0.95 * width, middle - 0.025, 0.95 * width, middle + 0.025, MARK)
        elif emblem == "stripes":
            for y in (middle - 0.035, middle + 0.035):
                self._box(-0.9 * width, y - 0.015, 0.9 * width, y + 0.015, MARK)
        falling, rising = ((-1.0, 1.0), (1.0, -1.0))
        for start, end in {"falling": (falling,), "rising": (rising,), "two": (falling, rising)}.get(
            shared["strap"], ()
        ):
            self._capsule((start * 0.7 * width, 0.18), (end * 0.8 * self.hip, self.hip_line), 0.014, 0.014, STRAP)
        if shared["zipper"] == "yes" and not behind:
            x = 0.4 * width * self.sin
            self._box(x - 0.008, 0.18, x + 0.008, self.hip_line + self.who.coat, STRAP)
        if shared["belt"] == "yes":
            self._box(-self.hip, self.hip_line - 0.012, self.hip, self.hip_line + 0.014, STRAP)

    def _head(self, behind: bool) -> None:
        outline, shared, head = self.who.outline, self.who.shared, self.who.sizes["head"]
        rx, ry = 0.050 * head, 0.066 * head
        middle = 0.145 - ry
        self._box(-0.022, middle, 0.022, 0.185, SKIN)
        if outline["hair"] == "long":
            back = -0.25 * rx * self.sin
            self._polygon(
                [(back - rx, middle), (back + rx, middle), (back + 1.15 * rx, 0.215), (back - 1.15 * rx, 0.215)], HAIR
            )
        if outline["hair"] == "bun":
            self._ellipse((-0.7 * rx * self.sin, middle - 1.05 * ry), 0.45 * rx, 0.4 * ry, HAIR)
        self._ellipse((0, middle), rx, ry, SKIN)
        line = middle + ry if behind else middle + ry * {"high": -0.6, "middle": -0.4, "low": -0.2}[shared["fringe"]]
        self._crown(middle, 1.08 * rx, 1.06 * ry, line)
        if outline["hair"] == "cap":
            self._box(
                min(0, 1.5 * rx * self.sin) - 0.3 * rx,
                middle - 0.35 * ry,
                max(0, 1.5 * rx * self.sin) + 0.3 * rx,
                middle - 0.2 * ry,
                HAIR,
            )
            self._trapezoid(middle - 1.15 * ry, 0.8 * rx, middle - 0.35 * ry, 1.1 * rx, HAIR)
        if not behind and shared["face"] != "bare":
            x = 0.5 * rx * self.sin
            top, bottom = (-0.15, 0.15) if shared["face"] == "glasses" else (0.2, 0.85)
            self._box(x - 0.7 * rx, middle + top * ry, x + 0.7 * rx, middle + bottom * ry, FACE)

    def _crown(self, middle: float, rx: float, ry: float, line: float) -> None:
        """The part of an ellipse above a line: hair seen from in front, or the whole head from behind."""
        angles = np.linspace(0, 2 * np.pi, 33)
        above = [(rx * np.cos(a), min(middle + ry * np.sin(a), line)) for a in angles]
        self._polygon(above, HAIR)

    def _backpack(self) -> None:
        x = -0.75 * self.shoulder * self.sin
        half = 0.075 * abs(self.cos) + 0.05
        self._box(x - half, 0.19, x + half, 0.42, BAG)

    def _bag(self) -> None:
        side = 1.0 if self.who.outline["bag_side"] == "right" else -1.0
        if self.who.outline["bag"] == "side":
            x = side * (self.hip + 0.02) * (self.cos if abs(self.cos) > 0.3 else 0.3)
            self._box(x - 0.045, self.hip_line - 0.03, x + 0.045, self.hip_line + 0.09, BAG)
        elif self.who.outline["bag"] == "hand":
            x, y = self._hand(side)[2]
            self._box(x - 0.04, y + 0.02, x + 0.04, y + 0.12, BAG)


def _visible(body: _Body, scene: Array, soft: Array, seed: int, camera: int) -> Array:
    who, view = body.who, body.view
    colours = who.colours[body.labels]
    if who.texture != "plain":
        period = who.period * body.scale
        down, across = np.indices(body.labels.shape)
        rows, columns = (down - body.top) // period % 2 > 0, (across - body.axis) // period % 2 > 0
        second = {"horizontal": rows, "vertical": columns, "check": rows ^ columns}[who.texture]
        colours[second & (body.labels == UPPER)] = who.second
    lit = _halved(colours * (_shading(body) * (body.labels > BACKGROUND))[:, :, None])
    image = (lit + (1 - soft)[:, :, None] * scene) * view.gain + view.offset
    return image * default_rng([seed, 55, PLACES[camera]]).uniform(0.75, 1.2, 3)


def _thermal(body: _Body, grey: Array, soft: Array) -> Array:
    emission = np.array(EMISSION)
    emission[[UPPER, LOWER]] += body.view.drift
    shading = 0.92 + 0.08 * (_shading(body) - 0.45) / 0.55
    warm = _halved(emission[body.labels] * shading)
    return (warm + (1 - soft) * (0.18 * grey + body.view.base)) * body.view.contrast


def _nir(body: _Body, grey: Array, soft: Array, rng: Generator) -> Array:
    lit = _halved(body.who.reflectance[body.labels] * _shading(body))
    return (lit + (1 - soft) * grey) * rng.uniform(0.8, 1.1)


def _shading(body: _Body) -> Array:
    """(1, 2W): a cylinder's, around the body's axis."""
    u = np.abs(np.arange(body.labels.shape[1]) + 0.5 - body.axis) / (body.shoulder * body.unit)
    return np.maximum(0.45, 1 - 0.35 * u**1.5)[None]


def _shape_map(labels: NDArray[np.uint8], rng: Generator, size: tuple[int, int], infrared: bool) -> NDArray[np.uint8]:
    """The body's soft mask as a parser would see it, failures included."""
    kept = (np.arange(len(LABELS)) > BACKGROUND).astype(np.float64)
    for label in (SKIN, HAIR, SHOE, LOWER):
        if rng.random() < (0.15 if infrared else 0.05):
            kept[label] = 0.1
    if rng.random() < 0.9:
        kept[BAG] = 0.0
    return _bytes(_blurred(255 * _halved(kept[labels]), 2 * size[0] / WHOLE))


@lru_cache(maxsize=32)
def _canvas(seed: int, place: int, size: tuple[int, int]) -> Array:
    """(H + margins, W + margins, 3) background of a place: a gradient and ten translucent rectangles."""
    rng = default_rng([seed, 99, place])
    margin = _margin(size)
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    top, bottom = rng.uniform(80, 170, (2, 3))
    canvas = top + (bottom - top) * np.linspace(0, 1, height)[:, None, None] + np.zeros((height, width, 3))
    for _ in range(10):
        y0, y1 = np.sort(rng.uniform(0, height, 2)).astype(int)
        x0, x1 = np.sort(rng.uniform(0, width, 2)).astype(int)
        share, colour = rng.uniform(0.1, 0.3), rng.uniform(20, 235, 3)
        canvas[y0:y1, x0:x1] = (1 - share) * canvas[y0:y1, x0:x1] + share * colour
    canvas.flags.writeable = False
    return canvas


def _scene(seed: int, place: int, size: tuple[int, int], shift: tuple[int, int]) -> Array:
    margin = _margin(size)
    x, y = (margin + round(value * size[0] / WHOLE) for value in shift)
    return _canvas(seed, place, size)[y : y + size[0], x : x + size[1]]


def _margin(size: tuple[int, int]) -> int:
    return round(18 * size[0] / WHOLE)


def _clouds(rng: Generator, size: tuple[int, int]) -> Array:
    """(H, W, 1) low-frequency noise of deviation 8."""
    coarse = Image.fromarray(rng.normal(0, 8, (9, 5)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float64)[:, :, None]


def _colour(rng: Generator) -> Array:
    """(3,) of a random hue, saturation and value, 0 to 255."""
    hue, saturation, value = rng.uniform(0, 6), rng.uniform(0.2, 1), rng.uniform(0.25, 1)
    ramp = np.clip(np.abs(hue - np.array([3.0, 2.0, 4.0])) * np.array([1, -1, -1]) + np.array([-1.0, 2.0, 2.0]), 0, 1)
    return 255 * value * (1 - saturation * (1 - ramp))


def _one_hot(values: dict[str, str], kinds: dict[str, tuple[str, ...]]) -> list[float]:
    return [float(values[name] == kind) for name, all_kinds in kinds.items() for kind in all_kinds]


def _halved(x: Array) -> Array:
    """Mean over squares of 2x2."""
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _blurred(x: Array, sigma: float) -> Array:
    return np.asarray(Image.fromarray(_bytes(x)).filter(ImageFilter.GaussianBlur(sigma)), np.float64)


def _bytes(x: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
