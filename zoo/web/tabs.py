"""The demo's tabs: what each asks for, and what it answers. The page is drawn from this table; a tab is a function."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.images import Encoded, read_picture
from zoo.data.video import VIDEO_SUFFIXES, frame_times
from zoo.errors import InputError
from zoo.registry.names import list_names, load_card
from zoo.web.samples import PEOPLE, SCENES_SHOWN, Samples, clip_sentence, nobody_sentence, scene_sentence

__all__ = ["Answer", "Example", "Field", "Figure", "Given", "Tab", "tabs"]

Given = Mapping[str, Any]

LONGEST_SIDE = 1024  # of a picture that is filtered, so that an answer is there in seconds
LONGEST_VIDEO = 30.0  # seconds
ANSWERS = 6
PLAIN = "none: the filter alone"
BY_HAND = {"visible": "by day (visible)", "infrared": "by night (infrared)"}


@dataclass(frozen=True)
class Field:
    """What a tab asks for.

    Attributes:
        name: In the form.
        label: For people.
        kind: "picture", "video", "text", "choice", "number" or "check".
        value: What stands there at first.
        choices: Of a choice.
        least: Of a number.
        most: Of a number; of a text, its letters.
        step: Of a number.
    """

    name: str
    label: str
    kind: str
    value: Any = None
    choices: tuple[str, ...] = ()
    least: float = 0.0
    most: float = 200.0
    step: float = 1.0

    @property
    def is_file(self) -> bool:
        """Whether a file is given."""
        return self.kind in ("picture", "video")

    def read(self, text: str | None) -> Any:
        """The value of what a form holds.

        Raises:
            InputError: It is none.
        """
        if self.kind == "check":
            return text == "on"
        if text is None:
            return self.value
        if self.kind == "choice" and text not in self.choices:
            raise InputError(f"{self.label}: no choice {text[:60]!r}", hint=", ".join(self.choices))
        if self.kind == "text" and not 0 < len(text.strip()) <= self.most:
            raise InputError(f"{self.label}: {len(text.strip())} letters", hint=f"1 to {self.most:g}")
        return self._number(text) if self.kind == "number" else text.strip()

    def _number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not self.least <= value <= self.most:
            raise InputError(f"{self.label}: {text[:60]!r}", hint=f"a number from {self.least:g} to {self.most:g}")
        return value


@dataclass(frozen=True)
class Example:
    """Values that a press of a button puts into the form.

    Attributes:
        title: On the button.
        values: By field; of a file, the name of a sample.
    """

    title: str
    values: Given


@dataclass(frozen=True)
class Figure:
    """A picture or video of an answer.

    Attributes:
        caption: Below it.
        content: A picture, or the file of an .mp4.
        is_right: Whether it is known to be what was asked for.
    """

    caption: str
    content: Image.Image | bytes
    is_right: bool = False


@dataclass(frozen=True)
class Answer:
    """What a tab answers; the page shows what is there.

    Attributes:
        headline: In a few words.
        bars: Names and shares in [0, 1].
        compare: Before and after, of the same size.
        figures: Pictures and videos.
        note: What a reader must know.
    """

    headline: str
    bars: tuple[tuple[str, float], ...] = ()
    compare: tuple[Image.Image, Image.Image] | None = None
    figures: tuple[Figure, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Tab:
    """A task.

    Attributes:
        name: In addresses.
        title: For people.
        about: What it does, and what it cannot.
        fields: What it asks for.
        examples: Ready values.
        answer: Values by field name to an answer; files are `Encoded`.
    """

    name: str
    title: str
    about: str
    fields: tuple[Field, ...]
    examples: tuple[Example, ...]
    answer: Callable[[Given], Answer] = field(repr=False)


def tabs(samples: Samples, device: str = "auto") -> tuple[Tab, ...]:
    """The tabs, whose networks are loaded when first asked.

    Args:
        samples: What is shown without being given anything.
        device: "auto", or a torch device.
    """
    people, moments = _People(samples, device), _Moments(samples, device)
    return (
        _classify_tab(device),
        Tab(
            "reid",
            "Find a person",
            "Who of a gallery of drawn people, seen by day, is the one in an infrared picture? The bundled network "
            "learned from drawn people and says nothing about real ones.",
            (
                Field("picture", "Picture of a person", "picture"),
                Field("modality", "Taken", "choice", BY_HAND["infrared"], tuple(BY_HAND.values())),
            ),
            tuple(Example(f"Person {i + 1}", {"picture": f"night-{i}.png"}) for i in range(0, PEOPLE, 4)),
            people.answer,
        ),
        Tab(
            "retrieve",
            "Find a moment",
            "Which of 24 drawn films shows what a sentence says? The bundled network knows 35 words: people in "
            "colours, what they do, and the ground.",
            (Field("sentence", "What is to be seen", "text", clip_sentence(0)),),
            tuple(Example(clip_sentence(i), {"sentence": clip_sentence(i)}) for i in range(1, 4)),
            moments.answer,
        ),
        _ground_tab(samples.folder, device),
        _filter_tab(device),
    )


def _classify_tab(device: str) -> Tab:
    from zoo.tasks.pipeline import pipeline

    cards = [load_card(name) for name in list_names(task="classify")]
    cards = [card for card in cards if card.default and card.labels == "cifar10"]
    networks = [card.name for card in cards if card.weights.status == "bundled"]
    load = cache(lambda name: pipeline(name, task="classify", device=device, explain=True))

    def answer(given: Given) -> Answer:
        from zoo.viz.heat import heat_overlay
        from zoo.viz.panels import enlarge

        found = load(given["network"])(given["picture"])
        figures = []
        if given["explain"]:
            whole = enlarge(found.picture())
            heat = heat_overlay(whole, found.explanation.heat, found.explanation.box)
            figures = [Figure("what was given", whole), Figure(f"where {found.labels[0]} was found", heat)]
        best, share = found[0]
        return Answer(f"{best}, {100 * share:.0f}%", tuple(found), figures=tuple(figures), note=found.note)

    return Tab(
        "predict",
        "Classify",
        "What does a picture show? The bundled networks know the ten classes of CIFAR-10 and nothing else: a face is "
        "still taken for one of the ten.",
        (
            Field("picture", "Picture", "picture"),
            Field("network", "Network", "choice", networks[0], tuple(networks)),
            Field("explain", "Show where it was found", "check", True),
        ),
        (Example("Cat", {"picture": "cat.jpg"}), Example("Rocket", {"picture": "rocket.jpg"})),
        answer,
    )


class _People:
    """A gallery of drawn people that is asked for one of them."""

    def __init__(self, samples: Samples, device: str) -> None:
        self.samples, self.device = samples, device

    @cached_property
    def pipe(self) -> Any:
        """The network."""
        from zoo.tasks.reid import default_model, reid_pipeline

        return reid_pipeline(default_model(), device=self.device)

    @cached_property
    def gallery(self) -> tuple[list[Path], NDArray[np.float32]]:
        """Pictures and their vectors."""
        paths = sorted(self.samples.people_by_day().iterdir())
        return paths, np.stack([found.vector for found in self._vectors(paths, "visible")])

    def answer(self, given: Given) -> Answer:
        modality = next(kind for kind, words in BY_HAND.items() if words == given["modality"])
        (query,) = self._vectors([given["picture"]], modality)
        if query.error:
            raise query.error
        paths, vectors = self.gallery
        scores = vectors @ query.vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query.vector)
        order = np.argsort(-scores, kind="stable")[:ANSWERS]
        own = f"person-{given['picture'].name.removeprefix('night-').removesuffix('.png')}"  # of a sample
        figures = [
            Figure(
                f"{rank}. {_person(paths[place])}, {scores[place]:.3f}",
                _large(Image.open(paths[place])),
                is_right=paths[place].stem == own,
            )
            for rank, place in enumerate(order.tolist(), 1)
        ]
        asked = Figure("asked for", _large(read_picture(given["picture"].content, name=given["picture"].name).image))
        return Answer(
            f"most alike: {_person(paths[order[0]])}",
            figures=(asked, *figures),
            note=f"{len(paths)} people searched; the numbers are cosine similarities, no probabilities",
        )

    def _vectors(self, pictures: list[Any], modality: str) -> list[Any]:
        self.pipe.task = replace(self.pipe.task, modality=modality)
        return list(self.pipe(pictures))


class _Moments:
    """An index of drawn films that is asked by sentences."""

    def __init__(self, samples: Samples, device: str) -> None:
        self.samples, self.device = samples, device

    @cached_property
    def search(self) -> Any:
        """The index, made now."""
        from zoo.tasks.retrieve import index_videos
        from zoo.tasks.retrieve_search import VideoSearch
        from zoo.tasks.retrievers import open_retriever

        folder, retriever = self.samples.folder / "index", open_retriever("tmvm_tiny", device=self.device)
        whole = float("inf")
        index_videos(self.samples.clips(), folder, retriever, window=whole, stride=whole)
        return VideoSearch(folder, device=self.device)

    def answer(self, given: Given) -> Answer:
        (ranking,) = self.search.texts([given["sentence"]], k=ANSWERS)
        if ranking.error:
            raise ranking.error
        figures = [
            Figure(f"{hit.rank}. {Path(hit.path).stem}, {hit.score:.3f}", Path(hit.path).read_bytes())
            for hit in ranking
        ]
        note = f"{ranking.searched} films searched; the numbers are similarities, no probabilities"
        return Answer(
            f"best: {Path(ranking[0].path).stem}",
            figures=tuple(figures),
            note="; ".join(text for text in (ranking.note, note) if text),
        )


def _ground_tab(folder: Path, device: str) -> Tab:
    from zoo.tasks.ground import ground_pipeline

    load = cache(lambda: ground_pipeline("stvgformer_tiny", device=device))

    def answer(given: Given) -> Answer:
        from zoo.tasks.ground_files import render

        with _file_of(given["video"], folder) as path:
            _check_length(path, given["video"].name)
            tube = load()(path, given["sentence"])
            if tube.span is None:
                return Answer("nobody was found", note=tube.note)
            marked = path.with_name("marked.mp4")
            render([tube], marked)
            figures = (Figure("who is meant, and when", marked.read_bytes()), Figure("frames of it", tube.draw()))
            span = tube.span
            return Answer(
                f"from {span.start:.1f} s to {span.end:.1f} s, score {span.score:.2f}", figures=figures, note=tube.note
            )

    return Tab(
        "ground",
        "Follow a person",
        "From when to when, and where in each frame, is the person whom a sentence describes? The bundled network "
        "learned from films of drawn people and knows 35 words.",
        (
            Field("video", f"Video, up to {LONGEST_VIDEO:g} s", "video"),
            Field("sentence", "Who, doing what", "text", scene_sentence(0)),
        ),
        (
            *(
                Example(scene_sentence(i), {"video": f"scene-{i}.mp4", "sentence": scene_sentence(i)})
                for i in range(SCENES_SHOWN)
            ),
            Example(f"{nobody_sentence()} (nobody does)", {"video": "scene-0.mp4", "sentence": nobody_sentence()}),
        ),
        answer,
    )


def _filter_tab(device: str) -> Tab:
    from zoo.tasks.filter import APPLICATIONS, FilterPipeline, FilterSettings

    made = (PLAIN, *(name for name in APPLICATIONS if name != "tonemap"))  # which wants pictures of linear light

    def answer(given: Given) -> Answer:
        apply = None if given["apply"] == PLAIN else given["apply"]
        settings = FilterSettings(apply=apply, sigma_s=given["sigma_s"], sigma_r=given["sigma_r"])
        picture = read_picture(given["picture"].content, name=given["picture"].name)
        image, notes = picture.image, [picture.note] if picture.note else []
        if max(image.size) > LONGEST_SIDE:
            notes.append(f"made smaller from {image.width}x{image.height}; zoo filter takes it as it is")
            image = image.copy()
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        found = FilterPipeline(settings, device=device)(image)
        return Answer(
            found.words(),
            compare=(found.before_image().convert("RGB"), found.image().convert("RGB")),
            note="; ".join(notes) or None,
        )

    return Tab(
        "filter",
        "Take texture away",
        "Texture goes, structure stays. No network: an edge-preserving pyramid, and what can be made of it.",
        (
            Field("picture", "Picture", "picture"),
            Field("apply", "Make of it", "choice", PLAIN, made),
            Field("sigma_s", "Scale of the texture, pixels", "number", 5.0, least=1, most=15, step=0.5),
            Field("sigma_r", "Contrast of the texture", "number", 0.05, least=0.01, most=0.3, step=0.01),
        ),
        (
            Example("Cat", {"picture": "cat.jpg"}),
            Example("Cat, drawn", {"picture": "cat.jpg", "apply": "abstract", "sigma_s": 3, "sigma_r": 0.03}),
            Example("Rocket, more detail", {"picture": "rocket.jpg", "apply": "enhance"}),
        ),
        answer,
    )


@contextmanager
def _file_of(video: Encoded, folder: Path) -> Iterator[Path]:
    """An uploaded video as a file, which is gone afterwards."""
    suffix = Path(video.name).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise InputError(f"{video.name} is not called like a video", hint=", ".join(sorted(VIDEO_SUFFIXES)))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / f"video{suffix}"
        path.write_bytes(video.content)
        try:
            yield path
        except InputError as error:
            raise InputError(error.message.replace(str(path), video.name), hint=error.hint) from None


def _check_length(path: Path, name: str) -> None:
    length = float(frame_times(path)[-1])
    if length > LONGEST_VIDEO:
        raise InputError(f"{name} is {length:.0f} s long", hint=f"up to {LONGEST_VIDEO:g} s here; zoo ground takes any")


def _person(path: Path) -> str:
    return f"person {int(path.stem.removeprefix('person-')) + 1}"


def _large(image: Image.Image) -> Image.Image:
    from zoo.viz.panels import enlarge

    return enlarge(image.convert("RGB"), smallest=192, largest=384)
