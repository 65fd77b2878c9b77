"""What the demo shows without being given anything: two photographs that come with zoo, people and films drawn here."""

import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo import settings
from zoo.data.people import picture
from zoo.data.video import Frame, VideoWriter
from zoo.data.zooclips import SPLITS, film, plan_clip
from zoo.data.zooclips_ground import SPLITS as SCENES
from zoo.data.zooclips_ground import absent_sentence, film_scene, plan_scene

__all__ = ["PEOPLE", "SCENES_SHOWN", "Samples", "clip_sentence", "nobody_sentence", "scene_sentence"]

PEOPLE, PEOPLE_SEED = 16, 2026  # identities; the network was trained on those of other seeds
PERSON = (96, 48)  # height and width of a drawn person's picture
BY_DAY, BY_NIGHT = 1, 3  # cameras
CLIPS, CLIP_FRAMES, CLIP_RATE = 24, 16, 8
SCENES_SHOWN, SCENE_FRAMES, SCENE_RATE = 2, 20, 5
SIDE, LARGER = 64, 4  # of a film, which is what the networks for films saw; and what it is shown larger by


class Samples:
    """Files by name, made when first asked for.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _makers(self) -> Mapping[str, Callable[[Path], None]]:
        photographs = {path.name: partial(_copy, path) for path in sorted(settings.picture_folder().glob("*.jpg"))}
        people = {f"night-{i}.png": partial(_person, i, BY_NIGHT) for i in range(PEOPLE)}
        scenes = {f"scene-{i}.mp4": partial(_scene, i) for i in range(SCENES_SHOWN)}
        return photographs | people | scenes

    def path(self, name: str) -> Path:
        """Where a sample is.

        Raises:
            KeyError: There is none of that name.
        """
        make = self._makers[name]
        path = self.folder / name
        if not path.exists():
            make(path)
        return path

    def people_by_day(self) -> Path:
        """A folder with a picture of each person, by day."""
        folder = self.folder / "people"
        if not folder.exists():
            folder.mkdir()
            for i in range(PEOPLE):
                _person(i, BY_DAY, folder / f"person-{i}.png")
        return folder

    def clips(self) -> list[str]:
        """Short films to be searched."""
        folder = self.folder / "clips"
        if not folder.exists():
            folder.mkdir()
            for i in range(CLIPS):
                _film(film(plan_clip(SPLITS["test"][i]), CLIP_FRAMES, SIDE), CLIP_RATE, folder / f"clip-{i:02d}.mp4")
        return sorted(map(str, folder.iterdir()))


def clip_sentence(number: int) -> str:
    """A sentence that is true of a clip."""
    return plan_clip(SPLITS["test"][number]).captions[0]


def scene_sentence(number: int) -> str:
    """A sentence that is true of somebody in a scene."""
    return plan_scene(SCENES["test"][number], SCENE_FRAMES).sentence


def nobody_sentence() -> str:
    """A sentence about somebody in green, whom scene 0 does not show."""
    return absent_sentence(plan_scene(SCENES["test"][0], SCENE_FRAMES), np.random.default_rng(3))


def _copy(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes())


def _person(number: int, camera: int, path: Path) -> None:
    pixels, _ = picture(PEOPLE_SEED, number, camera, 1, PERSON)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    path.write_bytes(held.getvalue())


def _scene(number: int, path: Path) -> None:
    _film(film_scene(plan_scene(SCENES["test"][number], SCENE_FRAMES), SIDE).frames, SCENE_RATE, path)


def _film(frames: NDArray[np.uint8], rate: int, path: Path) -> None:
    frames = frames.repeat(LARGER, 1).repeat(LARGER, 2)
    with VideoWriter(path, (frames.shape[2], frames.shape[1]), Fraction(rate)) as writer:
        for i, frame in enumerate(frames):
            writer.write(Frame(frame, i / rate))
