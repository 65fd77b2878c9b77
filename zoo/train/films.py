"""What a grounding network learns from real videos: HC-STVG, VidSTG, or a folder of one's own.

Films have sizes of their own, so each goes through the network alone and their losses are averaged. What a clip encoder
sees is costly and the encoder does not learn; its maps of whole frames are computed once, kept where
`method_args.features` says, and cut out as the frames are. T steps, K frames of a clip, C channels.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.ops import roi_align

from zoo import settings
from zoo.build import skeleton
from zoo.data.film import Film, clip_times, middles, shown_at
from zoo.data.tube_sets import TubeSet, open_tubes
from zoo.data.tubes import Annotation
from zoo.data.video import VideoReader, frame_times
from zoo.errors import InputError, UsageError
from zoo.hub.checkpoint import write_whole
from zoo.layers.wrapped import unwrapped
from zoo.models.stvgformer import STVGFormer
from zoo.registry.names import resolve
from zoo.tasks.decode import spare_cores
from zoo.tasks.ground import GroundPipeline, Settings
from zoo.tasks.ground_score import by_kind, score_set
from zoo.tasks.sentences import sentence_reader
from zoo.train.course import Place
from zoo.train.feed import STAND_INS, Feed
from zoo.train.grounding import Films, GroundingMethod
from zoo.train.recipe import Recipe

__all__ = ["FilmCourse"]

ORDER, CHANCE = 40, 41  # streams of chance beside the seed's own
SMALLEST = 0.65  # side of the smallest cut-out, as a share of the frame's


class FilmMethod(GroundingMethod, Protocol):
    """What the course asks of its method besides."""

    @property
    def features(self) -> str:
        """Folder for what the clip encoder sees; computed anew in every step if empty."""

    @property
    def scales(self) -> tuple[float, ...]:
        """Short sides of the frames, as shares of the network's; one is drawn for each film."""

    @property
    def cut(self) -> float:
        """Share of the films whose frames are cut out around all boxes."""

    @property
    def trim(self) -> float:
        """Share of the films that are shortened around the span."""

    @property
    def tokenizer(self) -> str:
        """File of the text encoder's tokenizer; the Hub's if empty."""


class Seen(NamedTuple):
    """What a clip encoder sees of a film, or what it takes to see it.

    Attributes:
        cache: File of its maps, (T, C, h, w) of whole frames; empty where none is kept.
        maps: Those, where the file is there.
        pixels: (F, 3, H, W) uint8 frames where it is not.
        around: (T, K) rows of `pixels`.
        steps: (T,) rows of the maps nearest to the sampled moments.
        window: Left, top, right and bottom of the cut-out, as shares of the frame.
    """

    cache: str
    maps: Tensor | None
    pixels: Tensor | None
    around: Tensor | None
    steps: Tensor
    window: tuple[float, float, float, float]


class FilmBatch(NamedTuple):
    """Films, each by itself, and what is wrong with videos that could not be read."""

    films: list[tuple[Films, Seen | None]]
    bad: list[str]

    def parts(self, count: int) -> list[list[tuple[Films, Seen | None]]]:
        """The same in equal parts."""
        size = len(self.films) // count
        return [self.films[at : at + size] for at in range(0, size * count, size)]


class FilmCourse:
    """Films with a sentence each, judged by the tubes that are found in those of `data.eval_split`.

    Args:
        recipe: What to do; `data.name` as for `zoo.data.tube_sets.open_tubes`.
        method: Whose loss it is.
        place: Where.

    Raises:
        UsageError: The network does not ground, or there are fewer films than a batch holds.
        InputError: The data, or the tokenizer, cannot be had.
    """

    def __init__(self, recipe: Recipe, method: FilmMethod, place: Place) -> None:
        card = resolve(recipe.model)
        if card.task != "ground":
            raise UsageError(f"{card.name} is made to {card.task}", hint="zoo list --task ground")
        self.recipe, self.method, self.place, self.card = recipe, method, place, card
        root, data = place.data or settings.data_root(), recipe.data
        learnt = open_tubes(data.name, data.split, root)
        self.exam = open_tubes(data.name, data.eval_split, root) if data.eval_split else None
        self.steps = len(learnt) // recipe.schedule.batch_size
        if not self.steps:
            raise UsageError(f"{len(learnt)} films are fewer than a batch", hint="lower schedule.batch_size")
        self.count = len(learnt) + (len(self.exam) if self.exam else 0)
        self.builder_args: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.main = f"{data.eval_split}_m_vIoU" if self.exam else ""
        self.bad: dict[str, None] = dict.fromkeys(learnt.bad + (self.exam.bad if self.exam else []))
        probe = cast(STVGFormer, skeleton(card, card.builder_args | recipe.model_args))
        self.tokenizer = Path(method.tokenizer) if method.tokenizer else None
        self.read = sentence_reader(probe, self.tokenizer)
        workers = spare_cores() if place.workers is None else place.workers
        lessons = _Learnt(learnt, probe, recipe, method, place.rank, place.world)
        # Feed is written for pictures; it hands on whatever a data set makes
        self.feed: Feed[tuple[int, int]] = Feed(cast(Any, lessons), workers)

    def begin(self) -> None:
        """Nothing here needs chance before the first step."""

    def batches(self, epoch: int, first: int) -> Iterator[FilmBatch]:
        return cast(Iterator[FilmBatch], self.feed([(epoch, at) for at in range(first, self.steps)]))

    def loss(self, model: nn.Module, part: list[tuple[Films, Seen | None]]) -> Tensor:
        bare, device = unwrapped(model, STVGFormer), self.place.device
        losses = []
        for held, seen in part:
            films = held.to(device)
            words = self.read(films.sentences).to(device)
            maps = _maps(bare, seen, device)[None] if seen else None
            losses.append(self.method.grounding_loss(model(films.frames, words, clip_features=maps), films))
        return torch.stack(losses).mean()

    def measure(self, model: nn.Module) -> dict[str, float]:
        if not self.exam:
            return {}
        bare = unwrapped(model, STVGFormer)
        was_training = bare.training
        bare.eval()
        whole = Settings(window=float("inf"), stride=float("inf"), min_score=0.0)
        pipe = GroundPipeline(
            self.card, bare, whole, device=self.place.device, dtype=torch.float32, tokenizer=self.tokenizer
        )
        scores, kinds, bad = score_set(pipe, self.exam)
        bare.train(was_training)
        self.bad |= dict.fromkeys(bad)
        prefix = self.recipe.data.eval_split
        return {
            f"{prefix}_{name}" if kind == "all" else f"{prefix}_{kind}_{name}": value
            for kind, figures in by_kind(scores, kinds).items()
            for name, value in figures.items()
            if "IoU" in name
        }


class _Learnt(Dataset[FilmBatch]):
    """Batches by (epoch, step), each a function of them and the seed."""

    def __init__(
        self, source: TubeSet, model: STVGFormer, recipe: Recipe, method: FilmMethod, rank: int, world: int
    ) -> None:
        self.source, self.seed, self.size = source, recipe.seed, recipe.schedule.batch_size
        self.mine = slice(rank, self.size, world)
        self.frames, self.short, self.longest, self.clip = model.frames, model.size, model.long_size, model.clip
        self.scales, self.cut, self.trim, self.features = method.scales, method.cut, method.trim, method.features
        self.kind = f"{recipe.model} {recipe.model_args} {model.frames} {model.size}"

    def __getitem__(self, at: tuple[int, int]) -> FilmBatch:
        epoch, step = at
        order = np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.source))
        bad: list[str] = []
        chosen = order[step * self.size :][: self.size][self.mine].tolist()
        return FilmBatch([self._read(row, epoch, bad) for row in chosen], bad)

    def _read(self, row: int, epoch: int, bad: list[str]) -> tuple[Films, Seen | None]:
        """The film of a row, or of the next one that can be read; what was wrong is added to `bad`."""
        rng = np.random.default_rng((self.seed, CHANCE, epoch, row))
        for tried in range(STAND_INS + 1):
            index = (row + tried) % len(self.source)
            try:
                return self._film(self.source.samples[index], self.source.videos[index], rng)
            except InputError as error:
                bad.append(error.message)
                last = error
        raise last

    def _film(self, sample: Annotation, path: Path, rng: np.random.Generator) -> tuple[Films, Seen | None]:
        times, tube = frame_times(path), sample.tube
        start, end, first, last = self._part(sample, len(times), rng)
        limits = np.append(times, times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1.0))
        moments = middles(limits[first], limits[last], self.frames)
        numbers = shown_at(times, moments)
        marked = (numbers >= start) & (numbers < end)
        if not marked.any():  # a span between two samples
            nearest = int(np.abs(numbers - (start + end - 1) / 2).argmin())
            numbers[nearest], marked[nearest] = (start + end - 1) // 2, True
        boxes = tube.boxes[np.clip(numbers - sample.start - tube.offset, 0, len(tube.boxes) - 1)]

        with VideoReader(path) as reader:
            size = reader.size
            window = self._window(boxes[marked], size, rng)
            whole, corner, side = self._sides(window, size, rng)
            film = Film(reader, times, {int(number) for number in numbers}, whole)
            film.decode_to(int(numbers.max()))
        if film.damage:
            raise film.damage
        frames = film.stack(numbers)[:, :, corner[0] : corner[0] + side[0], corner[1] : corner[1] + side[1]]
        shares = np.clip(
            (boxes / np.array(size * 2) - window[[0, 1, 0, 1]]) / np.tile(window[2:] - window[:2], 2), 0, 1
        )
        centred = np.concatenate([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1)
        zero = limits[first]
        span = [limits[start] - zero, limits[end] - zero, max(limits[last] - zero, 1e-6)]
        films = Films(
            frames[None],
            [sample.sentence],
            torch.from_numpy(centred).float()[None],
            torch.from_numpy(marked)[None],
            torch.tensor([span], dtype=torch.float32),
        )
        seen = self._seen(path, times, moments, (*window.tolist(),)) if self.clip.frames else None
        return films, seen

    def _part(self, sample: Annotation, count: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Frames of a video of `count` at which the span, and the part to look at around it, start and end."""
        tube = sample.tube
        start, end = tube.start + sample.start, min(tube.end + sample.start, count)
        if start >= end:
            raise InputError(f"{sample.video} ends before its span", hint="fetch it again")
        used = sample.start + (tube.video_frames or count)
        first, last = min(sample.start, start), max(end, min(used, count))
        if rng.random() < self.trim:
            return start, end, int(rng.integers(first, start + 1)), int(rng.integers(end, last + 1))
        return start, end, first, last

    def _window(self, boxes: NDArray[Any], size: tuple[int, int], rng: np.random.Generator) -> NDArray[Any]:
        """A cut-out that holds all boxes: left, top, right and bottom as shares of the frame."""
        if rng.random() >= self.cut:
            return np.array([0.0, 0.0, 1.0, 1.0])
        shares = np.clip(boxes / np.array(size * 2), 0, 1)
        low, high = shares[:, :2].min(0), shares[:, 2:].max(0)
        side = np.maximum(rng.uniform(SMALLEST, 1, 2), high - low)
        corner = rng.uniform(np.maximum(0, high - side), np.minimum(low, 1 - side))
        return np.concatenate([corner, corner + side])

    def _sides(
        self, window: NDArray[Any], size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Height and width that whole frames are shrunk to, and in them the cut-out's corner (y, x) and sides."""
        pixels = (window[2:] - window[:2]) * size
        scale = self.short * float(rng.choice(self.scales)) / pixels.min()
        scale = min(scale, self.longest / pixels.max())
        width, height = (max(8, round(side * scale)) for side in size)
        left, top, right, bottom = (window * np.array([width, height] * 2)).round().astype(int).tolist()
        side = max(8, bottom - top), max(8, right - left)
        return (height, width), (min(top, height - side[0]), min(left, width - side[1])), side

    def _seen(
        self, path: Path, times: NDArray[np.float64], moments: NDArray[np.float64], window: tuple[float, ...]
    ) -> Seen:
        """Maps of the whole video at T moments, from the file that keeps them or the frames to make them from."""
        known = middles(0.0, float(times[-1]) + 1e-3, self.frames)
        steps = torch.from_numpy(np.abs(known[None] - moments[:, None]).argmin(1))
        cut = cast(tuple[float, float, float, float], window)
        cache = ""
        if self.features:
            state = path.stat()
            name = f"{self.kind} {path.absolute()} {state.st_size} {state.st_mtime_ns}"
            cache = str(Path(self.features) / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors")
            try:
                return Seen(cache, load_file(cache)["maps"], None, None, steps, cut)
            except (OSError, SafetensorError):
                pass  # not there yet, or broken: made anew
        around = shown_at(times, clip_times(known, self.clip.frames, self.clip.seconds))
        with VideoReader(path) as reader:
            scale = min(self.short / min(reader.size), self.longest / max(reader.size))
            width, height = (max(8, round(side * scale)) for side in reader.size)
            wanted, rows = np.unique(around, return_inverse=True)
            film = Film(reader, times, set(wanted.tolist()), (height, width))
            film.decode_to(int(wanted.max()))
        return Seen(cache, None, film.pictures(wanted), torch.from_numpy(rows.reshape(around.shape)), steps, cut)


@torch.no_grad()
def _maps(model: STVGFormer, seen: Seen, device: torch.device) -> Tensor:
    """(T, C, h, w) of the cut-out at the sampled moments; maps that were missing are made and kept."""
    maps = seen.maps
    if maps is None:
        assert seen.pixels is not None
        assert seen.around is not None
        statistics = model.clip.statistics
        made = []
        for rows in seen.around:
            clip = seen.pixels[rows].to(device).transpose(0, 1)[None].float() / 255
            made.append(model.video_encoder(statistics.normalise(clip))[0].half().cpu())
        maps = torch.stack(made)
        if seen.cache:
            Path(seen.cache).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(seen.cache), save({"maps": maps}))
    chosen = maps[seen.steps].to(device).float()
    if seen.window == (0.0, 0.0, 1.0, 1.0):
        return chosen
    height, width = chosen.shape[2:]
    left, top, right, bottom = seen.window
    place = chosen.new_tensor([[left * width, top * height, right * width, bottom * height]])
    side = max(1, round((bottom - top) * height)), max(1, round((right - left) * width))
    return roi_align(chosen, [place] * len(chosen), side, sampling_ratio=2, aligned=True)
