"""What a retrieval network learns from and is judged by: clips with captions.

B clips of F frames, L words.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo import settings
from zoo.data.clip_sources import ClipSource, VideoClips, open_clips
from zoo.data.tokens import Tokenizer, tokenizer
from zoo.errors import InputError, UsageError
from zoo.metrics.retrieval import retrieval_scores
from zoo.models.tmvm import TMVM, Compared, match
from zoo.registry.names import resolve
from zoo.tasks.decode import spare_cores
from zoo.train.course import Place
from zoo.train.feed import STAND_INS, Feed
from zoo.train.recipe import Recipe

__all__ = ["ClipBatch", "ClipCourse", "RetrievalMethod"]

ORDER, CHANCE, HELD_OUT = 30, 31, 32  # streams of chance beside the seed's own
AT_ONCE = 50  # clips measured together


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
        return [ClipBatch(*part, []) for part in zip(*fields, strict=True)]


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
        encode = tokenizer(probe.vocabulary, probe.max_words, words=probe.words)
        source = open_clips(data.name, data.split, root, card.input, frames, padding=data.padding, flip=data.flip)
        order = np.random.default_rng((recipe.seed, HELD_OUT)).permutation(len(source.captions))
        held_out, rows = np.sort(order[: data.held_out]), np.sort(order[data.held_out :])
        self.steps = len(rows) // recipe.schedule.batch_size
        if self.steps == 0:
            raise UsageError(f"{len(rows)} clips are fewer than a batch", hint="lower schedule.batch_size")
        workers = place.workers
        if workers is None:
            workers = spare_cores() if isinstance(source, VideoClips) else 0
        learnt = _Learnt(source, rows, encode, recipe, place.rank, place.world)
        # Feed is written for pictures; it hands on whatever a data set makes
        self.feed: Feed[tuple[int, int]] = Feed(cast(Any, learnt), workers, pin=place.device.type == "cuda")
        self.exams: dict[str, _Exam] = {}
        if len(held_out):
            self.exams["held_out"] = _Exam(source, held_out, encode, frames)
        if unseen := data.eval_split:
            test = open_clips(data.name, unseen, root, card.input, frames)
            self.exams[unseen] = _Exam(test, np.arange(len(test.captions)), encode, frames)
        self.count = len(rows) + sum(len(exam.rows) for exam in self.exams.values())
        self.main = f"{next(iter(self.exams))}_t2v_r5" if self.exams else ""
        self.facts: dict[str, Any] = {}

    def begin(self) -> None:
        pass

    def batches(self, epoch: int, first: int) -> Iterator[ClipBatch]:
        return cast(Iterator[ClipBatch], self.feed([(epoch, at) for at in range(first, self.steps)]))

    def loss(self, model: nn.Module, part: ClipBatch) -> Tensor:
        video, seen, ids, mask = (field.to(self.place.device, non_blocking=True) for field in part[:4])
        bare: TMVM = getattr(model, "module", model)
        found = model(self._normalised(video), ids, mask, None if bool(seen.all()) else seen)
        return self.method.retrieval_loss(found, bare.scale)

    def measure(self, model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        bare: TMVM = getattr(model, "module", model)
        was_training = bare.training
        bare.eval()
        for name, exam in self.exams.items():
            figures |= {f"{name}_{key}": value for key, value in self._judged(bare, exam).items()}
        bare.train(was_training)
        return figures

    @torch.no_grad()
    def _judged(self, model: TMVM, exam: "_Exam") -> dict[str, float]:
        device = self.place.device
        vectors = []
        for batch in exam.batches():
            self.bad |= dict.fromkeys(batch.bad)
            video, seen = batch.video.to(device), batch.seen.to(device)
            vectors.append(model.encode_video(self._normalised(video), None if bool(seen.all()) else seen).vectors)
        tokens = exam.tokens
        texts = [
            model.encode_text(ids.to(device), mask.to(device))
            for ids, mask in zip(tokens.ids.split(256), tokens.mask.split(256), strict=True)
        ]
        z = torch.cat(vectors).float()
        similarity, winners = match(torch.cat(texts).float(), z)
        scores = retrieval_scores(similarity.cpu().numpy(), exam.owner)
        own = winners.cpu()[torch.arange(len(winners)), torch.from_numpy(exam.owner)]
        usage = torch.bincount(own, minlength=z.shape[1]).float() / len(own)
        spread = float(z.var(1).mean()) if z.shape[1] > 1 else 0.0
        return {
            **{f"t2v_{key}": getattr(scores.text_to_video, key) for key in ("r1", "r5", "r10", "mdr", "mnr")},
            **{f"v2t_{key}": getattr(scores.video_to_text, key) for key in ("r1", "r5", "r10", "mdr", "mnr")},
            **{f"usage_{k}": round(float(share), 4) for k, share in enumerate(usage)},
            "prototype_variance": spread,
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
        clips, texts, bad = [], [], []
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


class _Exam:
    """Clips with queries: all their captions, but for drawn ones only those that are true of one clip."""

    def __init__(self, source: ClipSource, rows: Any, encode: Tokenizer, frames: int) -> None:
        self.source, self.rows, self.frames = source, rows, frames
        captions = [source.captions[row] for row in rows]
        times = Counter(text for texts in captions for text in set(texts))
        queries = [(text, i) for i, texts in enumerate(captions) for text in texts if times[text] == 1]
        self.owner = np.array([i for _, i in queries])
        self.tokens = encode([text for text, _ in queries])

    def batches(self) -> Iterator[ClipBatch]:
        for start in range(0, len(self.rows), AT_ONCE):
            clips: list[tuple[Any, int]] = []
            bad = []
            for row in self.rows[start : start + AT_ONCE]:
                try:
                    clips.append(self.source.read(int(row), None))
                except InputError as error:  # it is found by nobody, and counts
                    bad.append(error.message)
                    shape = clips[-1][0].shape if clips else None
                    clips.append((np.zeros(shape or (self.frames, 224, 224, 3), np.uint8), 1))
            nothing = torch.empty(len(clips), 0)
            yield ClipBatch(*_stacked(clips), nothing, nothing, bad)


def _stacked(clips: Sequence[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    video = torch.from_numpy(np.stack([clip for clip, _ in clips]))
    counts = torch.tensor([count for _, count in clips])
    return video, torch.arange(video.shape[1]) < counts[:, None]
