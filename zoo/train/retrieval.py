"""What a retrieval network learns from and is judged by: clips with captions.

B clips of F frames, L words.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo import settings
from zoo.data.captions import protocol
from zoo.data.clip_sources import ClipSource, VideoClips, open_clips
from zoo.data.tokens import Tokenizer, tokenizer
from zoo.errors import InputError, UsageError
from zoo.layers.wrapped import unwrapped
from zoo.models.tmvm import TMVM, Compared
from zoo.registry.names import resolve
from zoo.tasks.decode import spare_cores
from zoo.tasks.retrieve_eval import Exam, evaluate_retrieval
from zoo.tasks.retrievers import Retriever
from zoo.train.course import Place
from zoo.train.feed import STAND_INS, Feed
from zoo.train.recipe import Recipe

__all__ = ["ClipBatch", "ClipCourse", "RetrievalMethod"]

ORDER, CHANCE, HELD_OUT = 30, 31, 32  # streams of chance beside the seed's own
FIGURES = ("r1", "r5", "r10", "mdr", "mnr")


class ClipBatch(NamedTuple):
    """Clips with a caption each.

    Attributes:
        video: (B, F, H, W, 3) uint8.
        seen: (B, F), false for frames that only fill up a clip.
        ids: (B, L) tokens.
        mask: (B, L), true where a token is.
        bad: What is wrong with the videos that could not be read.
    """

    video: Tensor
    seen: Tensor
    ids: Tensor
    mask: Tensor
    bad: list[str]

    def parts(self, count: int) -> list["ClipBatch"]:
        """The same in equal parts."""
        fields = (field.chunk(count) for field in self[:4])
        return [ClipBatch(video, seen, ids, mask, []) for video, seen, ids, mask in zip(*fields, strict=True)]


class RetrievalMethod(Protocol):
    """What the course asks of its method."""

    def retrieval_loss(self, found: Compared, scale: Tensor | float) -> Tensor:
        """Mean loss of clips and their captions, in the same order."""
        ...


class ClipCourse:
    """Clips with captions, a caption of each a batch, judged by how well captions find their clips.

    With several processes each contrasts its own part of a batch.

    Args:
        recipe: What to do; `data.name` as for `zoo.data.clip_sources.open_clips`.
        method: Whose loss it is.
        place: Where.

    Raises:
        UsageError: The network is not one for retrieval, or there are fewer clips than a batch holds.
        InputError: The data cannot be had.
    """

    def __init__(self, recipe: Recipe, method: RetrievalMethod, place: Place) -> None:
        card = resolve(recipe.model)
        if card.task != "retrieve":
            raise UsageError(f"{card.name} is made to {card.task}", hint="zoo list --task retrieve")
        self.recipe, self.method, self.place, self.input = recipe, method, place, card.input
        self.builder_args: dict[str, Any] = {}
        self.bad: dict[str, None] = {}
        root, data = place.data or settings.data_root(), recipe.data
        probe = _skeleton(recipe)
        frames = probe.num_frames
        self.encode = tokenizer(probe.vocabulary, probe.max_words, words=probe.words)
        source = open_clips(data.name, data.split, root, card.input, frames, padding=data.padding, flip=data.flip)
        order = np.random.default_rng((recipe.seed, HELD_OUT)).permutation(len(source.captions))
        held_out, rows = np.sort(order[: data.held_out]), np.sort(order[data.held_out :])
        self.steps = len(rows) // recipe.schedule.batch_size
        if self.steps == 0:
            raise UsageError(f"{len(rows)} clips are fewer than a batch", hint="lower schedule.batch_size")
        workers = place.workers
        if workers is None:
            workers = spare_cores() if isinstance(source, VideoClips) else 0
        learnt = _Learnt(source, rows, self.encode, recipe, place.rank, place.world)
        # Feed is written for pictures; it hands on whatever a data set makes
        self.feed: Feed[tuple[int, int]] = Feed(cast(Any, learnt), workers, pin=place.device.type == "cuda")
        self.exams: dict[str, Exam] = {}
        if len(held_out):
            self.exams["held_out"] = Exam.of(source, held_out.tolist())
        if unseen := data.eval_split:
            self.exams[unseen] = Exam.of(open_clips(data.name, unseen, root, card.input, frames))
        self.count = len(rows) + sum(len(exam.rows) for exam in self.exams.values())
        self.main = f"{next(iter(self.exams))}_t2v_r5" if self.exams else ""
        self.facts: dict[str, Any] = {"protocol": protocol(data.name, data.eval_split)} if data.eval_split else {}

    def begin(self) -> None:
        pass

    def batches(self, epoch: int, first: int) -> Iterator[ClipBatch]:
        return cast(Iterator[ClipBatch], self.feed([(epoch, at) for at in range(first, self.steps)]))

    def loss(self, model: nn.Module, part: ClipBatch) -> Tensor:
        video, seen, ids, mask = (field.to(self.place.device, non_blocking=True) for field in part[:4])
        bare = unwrapped(model, TMVM)
        found = model(self._normalised(video), ids, mask, None if bool(seen.all()) else seen)
        return self.method.retrieval_loss(found, bare.scale)

    def measure(self, model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        bare = unwrapped(model, TMVM)
        was_training = bare.training
        bare.eval()
        for name, exam in self.exams.items():
            figures |= {f"{name}_{key}": value for key, value in self._judged(bare, exam).items()}
        bare.train(was_training)
        return figures

    def _judged(self, model: TMVM, exam: Exam) -> dict[str, float]:
        reader = Retriever(
            self.recipe.model,
            "in training",
            self.input,
            frames=model.num_frames,
            dim=model.embed_dim,
            per_item=model.num_prototypes,
            device=self.place.device,
            read=(self.encode, model.encode_text),
            network=lambda: model,
        )
        found = evaluate_retrieval(reader, exam)
        self.bad |= dict.fromkeys(error.message for error in found.failed)
        both = {"t2v": found.scores.text_to_video, "v2t": found.scores.video_to_text}
        return {
            **{f"{way}_{key}": getattr(ranks, key) for way, ranks in both.items() for key in FIGURES},
            **{f"usage_{k}": round(share, 4) for k, share in enumerate(found.usage)},
            "prototype_variance": found.spread,
        }

    def _normalised(self, video: Tensor) -> Tensor:
        """(B, F, H, W, 3) uint8 -> (B, F, 3, H, W)."""
        mean, std = (torch.tensor(v, device=video.device).view(-1, 1, 1) for v in (self.input.mean, self.input.std))
        return video.movedim(-1, 2).float().div_(255).sub_(mean).div_(std)


def _skeleton(recipe: Recipe) -> TMVM:
    from zoo.build import skeleton

    card = resolve(recipe.model)
    return cast(TMVM, skeleton(card, card.builder_args | recipe.model_args))


class _Learnt(Dataset[ClipBatch]):
    """Batches by (epoch, step)."""

    def __init__(self, source: ClipSource, rows: Any, encode: Tokenizer, recipe: Recipe, rank: int, world: int) -> None:
        self.source, self.rows, self.encode = source, rows, encode
        self.size, self.seed = recipe.schedule.batch_size, recipe.seed
        self.mine = slice(rank, self.size, world)

    def __getitem__(self, at: tuple[int, int]) -> ClipBatch:
        epoch, step = at
        order = np.random.default_rng((self.seed, ORDER, epoch)).permutation(self.rows)
        chosen = order[step * self.size :][: self.size][self.mine].tolist()
        clips, texts = [], []
        bad: list[str] = []
        for row in chosen:
            rng = np.random.default_rng((self.seed, CHANCE, epoch, row))
            index, clip = self._read(row, rng, bad)
            clips.append(clip)
            captions = self.source.captions[index]
            texts.append(captions[int(rng.integers(len(captions)))])  # others of the clip would be false negatives
        tokens = self.encode(texts)
        return ClipBatch(*_stacked(clips), tokens.ids, tokens.mask, bad)

    def _read(self, row: int, rng: np.random.Generator, bad: list[str]) -> tuple[int, tuple[Any, int]]:
        """The clip of a row, or the next one that can be read; what was wrong is added to `bad`."""
        at = int(np.searchsorted(self.rows, row))
        for tried in range(STAND_INS + 1):
            index = int(self.rows[(at + tried) % len(self.rows)])
            try:
                return index, self.source.read(index, rng)
            except InputError as error:
                bad.append(error.message)
                last = error
        raise last


def _stacked(clips: Sequence[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    video = torch.from_numpy(np.stack([clip for clip, _ in clips]))
    counts = torch.tensor([count for _, count in clips])
    return video, torch.arange(video.shape[1]) < counts[:, None]
