"""Pictures whose classes differ in size: how they are divided, what a batch holds, what is measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.balance import (
    class_counts,
    class_rows,
    folds,
    long_tail,
    progressive_shares,
    sampled_rows,
    sampling_shares,
    varied_rows,
)
from zoo.data.datasets import Pictures
from zoo.data.sources import Samples, aligned, open_data
from zoo.errors import InputError, UsageError
from zoo.layers.wrapped import unwrapped
from zoo.losses.metric import CentreTriplet
from zoo.metrics.imbalance import ImbalanceScores, imbalance_scores
from zoo.tasks.decode import spare_cores
from zoo.train.course import Place
from zoo.train.feed import NOBODY, Batch, Feed, Learnt, Measured
from zoo.train.networks import input_of, normalise
from zoo.train.rebalance import Known
from zoo.train.recipe import Recipe
from zoo.train.representation import Representation

if TYPE_CHECKING:
    from zoo.train.methods.metric_imbalance import Method

__all__ = ["Divided", "ImbalanceCourse", "divide"]

DRAWS, VIEWS = 11, 12  # streams of chance beside the feed's
BATCH = 250  # pictures at a time where nothing is learnt
KEPT = 2  # sets whose maps stay in memory

Data = Pictures | Samples


@dataclass(frozen=True)
class Divided:
    """A set in three parts.

    Attributes:
        data: The set that is learnt from.
        learnt: Rows of it.
        held_out: Rows of it to choose on.
        test: The set that is tested on, the same one or another.
        tested: Rows of that.
    """

    data: Data
    learnt: Tensor
    held_out: Tensor
    test: Data
    tested: Tensor

    @property
    def counts(self) -> Tensor:
        """(K,) pictures of each class that are learnt."""
        return class_counts(self.data.labels[self.learnt], len(self.data.names))


def divide(recipe: Recipe, method: "Method", root: Path | None) -> Divided:
    """The set of a recipe: a fold of it, or its own second part, to test on; a share of the rest to choose on.

    Raises:
        InputError: The data cannot be had, or a class has no pictures.
        UsageError: There is a single class, or nothing would be tested.
    """
    data = open_data(recipe.data.name, recipe.data.split, root)
    if method.long_tail:
        data = long_tail(data, method.long_tail, method.division)
    counts = class_counts(data.labels, len(data.names))
    if len(data.names) < 2:
        raise UsageError(f"{recipe.data.name} has a single class, {data.names[0]}", hint="two or more are needed")
    if (counts == 0).any():
        empty = data.names[int((counts == 0).nonzero()[0])]
        raise InputError(f"class {empty} of {recipe.data.name} has no pictures", hint="add some, or remove its folder")
    if recipe.data.eval_split:
        test = open_data(recipe.data.name, recipe.data.eval_split, root)
        test = aligned(test, data.names, f"{recipe.data.name} {recipe.data.eval_split}")
        left, tested = torch.arange(len(data)), torch.arange(len(test))
    else:
        fold = folds(data.labels, method.folds, method.division)
        is_tested = fold == method.fold % method.folds
        test, left, tested = data, (~is_tested).nonzero()[:, 0], is_tested.nonzero()[:, 0]
    if not len(tested):
        raise UsageError(
            f"{recipe.data.name} has too few pictures to test on", hint="at least two of a class, or data.eval_split"
        )
    is_held = torch.zeros(len(data), dtype=torch.bool)
    chance = np.random.default_rng((method.division, method.fold))
    for rows in class_rows(data.labels[left], len(data.names)):
        count = min(round(method.validation * len(rows)), len(rows) - 1)
        is_held[left[rows[torch.from_numpy(chance.permutation(len(rows))[:count])]]] = True
    return Divided(data, left[~is_held[left]], left[is_held[left]], test, tested)


class _Mixed(Learnt):
    """Batches as classes are to be met, and behind each a second one with as many pictures of several classes."""

    def __init__(self, data: Data, recipe: Recipe, place: Place, method: "Method") -> None:
        super().__init__(data, recipe, input_of(recipe.model), place.rank, place.world)
        self.method = method
        self.natural = len(self.mine)
        able = int((class_counts(data.labels, len(data.names)) > 1).sum())
        self.varied = min(method.classes, able) * method.each if method.needs_varied else 0
        first = recipe.schedule.batch_size + place.rank * self.varied  # every process has classes of its own to compare
        self.mine = [*self.mine, *range(first, first + self.varied)]
        self.world = place.world

    def rows(self, epoch: int, step: int) -> Tensor:
        method, seed, labels = self.method, self.recipe.seed, self.data.labels
        chance = np.random.default_rng((seed, DRAWS, epoch, step))
        if method.sampling == "natural":
            rows = super().rows(epoch, step)
        else:
            counts = class_counts(labels, len(self.data.names))
            power = {"square_root": 0.5, "balanced": 0.0}
            shares = (
                progressive_shares(counts, epoch / self.recipe.schedule.epochs)
                if method.sampling == "progressive"
                else sampling_shares(counts, power[method.sampling])
            )
            rows = sampled_rows(labels, shares, self.recipe.schedule.batch_size, chance)
        if not self.varied:
            return rows
        return torch.cat([rows, *(varied_rows(labels, method.classes, method.each, chance) for _ in range(self.world))])


@dataclass(frozen=True)
class _Lesson:
    """A batch as classes are met, and one to compare.

    Attributes:
        x: (B, H, W, C) uint8, or (B, 2) view and row of a kept map.
        y: (B,) classes.
        natural: How many of them are met; the others are compared.
        bad: What is wrong with files.
        opens: Whether it is the first of an epoch.
    """

    x: Tensor
    y: Tensor
    natural: int
    bad: list[str]
    opens: bool

    def parts(self, count: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor, bool]]:
        """Met pictures and classes, compared ones and theirs, and whether they open an epoch."""
        x, y, n = self.x, self.y, self.natural
        pieces = [tensor.tensor_split(count) for tensor in (x[:n], y[:n], x[n:], y[n:])]
        return [(*some, self.opens and at == 0) for at, some in enumerate(zip(*pieces, strict=True))]


class ImbalanceCourse:
    """The first stage: cross-entropy, or what takes its place, and a metric loss.

    Args:
        recipe: What to do.
        method: Its arguments.
        place: Where.

    Raises:
        InputError, UsageError: As `divide`; or there are fewer pictures than a batch holds; or no two classes have two
            pictures each, so that nothing can be compared; or weights without a training would be frozen; or many
            processes would have to share what a metric loss learns.
    """

    def __init__(self, recipe: Recipe, method: "Method", place: Place) -> None:
        self.recipe, self.method, self.place = recipe, method, place
        self.divided = divide(recipe, method, place.data)
        self.data = self.divided.data
        self.names = self.data.names
        self.input = input_of(recipe.model)
        learnt = self.data[self.divided.learnt]
        count = recipe.schedule.batch_size
        self.steps = len(learnt) // count
        if self.steps == 0:
            raise UsageError(
                f"{len(learnt)} pictures are fewer than a batch of {count}", hint="lower schedule.batch_size"
            )
        self.count = len(self.data)
        self.counts = self.divided.counts
        if method.frozen and not recipe.init:
            raise UsageError(
                f"what is frozen before {method.frozen} would be random",
                hint="init=pretrained, or init=FILE.safetensors",
            )
        if method.metric and int((self.counts > 1).sum()) < 2:
            raise UsageError(
                f"the metric loss {method.metric} needs two classes with two pictures each",
                hint='more pictures, or method_args.metric=""',
            )
        if place.world > 1 and (method.metric == "proxy_anchor" or (method.metric and method.projection)):
            raise UsageError(
                "what a metric loss learns itself is not shared among processes",
                hint="one process; or a metric loss without proxies, and method_args.projection=0",
            )
        self.learnt = _Mixed(learnt, recipe, place, method)
        self.workers = place.workers
        if self.workers is None:
            self.workers = spare_cores() if self.learnt.is_slow and not method.frozen else 0
        self.feed: Feed[tuple[int, int]] = Feed(self.learnt, self.workers, pin=place.device.type == "cuda")
        self.builder_args = {"num_classes": len(self.names)}
        self.facts: dict[str, Any] = {"labels": self.names, "class_counts": self.counts.tolist(), "stage": 1}
        self.main = "held_out_mcr" if len(self.divided.held_out) else ""
        self.epoch = 0
        self.bad: dict[str, None] = {}
        self.views = [
            (across, down)
            for down in ((False, True) if method.upside_down else (False,))
            for across in ((False, True) if recipe.data.flip else (False,))
        ]

    def begin(self) -> None:
        """Nothing here needs chance."""

    def batches(self, epoch: int, first: int) -> Iterator[_Lesson]:
        self.epoch = epoch
        keys = [(epoch, at) for at in range(first, self.steps)]
        for (_, step), batch in zip(keys, self._kept(keys) if self.method.frozen else self.feed(keys), strict=True):
            yield _Lesson(batch.images, batch.labels, self.learnt.natural, batch.bad, step == 0)

    def _kept(self, keys: list[tuple[int, int]]) -> Iterator[Batch]:
        """Places of kept maps instead of pictures."""
        for epoch, step in keys:
            rows = self.learnt.rows(epoch, step)[torch.tensor(self.learnt.mine)]
            chance = np.random.default_rng((self.recipe.seed, VIEWS, epoch, step, self.place.rank))
            views = torch.from_numpy(chance.integers(0, len(self.views), len(rows)))
            places = torch.stack([views, self.divided.learnt[rows]], 1)
            yield Batch(places, self.learnt.data.labels[rows], [])

    def loss(self, model: nn.Module, part: tuple[Tensor, Tensor, Tensor, Tensor, bool]) -> Tensor:
        met, labels, compared, theirs, opens = part
        whole = unwrapped(model, Representation)
        metric = whole.metric
        if opens and isinstance(metric, CentreTriplet):
            known = self.known(whole, "learnt", views=1)
            with torch.no_grad():
                metric.refresh(whole.embed(known.features[0]), known.labels)
            model.train()
        # in one pass: what the norms keep for answering is then what both losses were computed with
        features, logits = model(self._seen(whole, torch.cat([met, compared])))
        count = len(met)
        extra = features.new_zeros(())
        if metric is not None:
            extra = self._metric(whole, *((features[count:], theirs) if len(compared) else (features, labels)))
        counts, epochs = self.counts.to(logits.device), self.recipe.schedule.epochs
        truth = labels.to(logits.device)
        own = self.method.criterion_of(logits[:count].float(), truth, counts, self.epoch, epochs)
        return own + self.method.share * extra

    def _metric(self, whole: Representation, features: Tensor, labels: Tensor) -> Tensor:
        assert whole.metric is not None
        with torch.autocast(features.device.type, enabled=False):
            loss: Tensor = whole.metric(whole.embed(features.float()), labels.to(features.device))
        return loss

    def _seen(self, whole: Representation, x: Tensor) -> Tensor:
        """What the learning part of the network is given."""
        if self.method.frozen:
            return self._maps(whole, self.data, "learnt")[x[:, 0], x[:, 1]].to(self.place.device).float()
        images = normalise(x.to(self.place.device), self.input, self.recipe.channels_last)
        if self.method.upside_down:
            turned = torch.rand(len(images)) < 0.5
            images = torch.where(turned.to(images.device)[:, None, None, None], images.flip(2), images)
        return images

    def measure(self, model: nn.Module) -> dict[str, float]:
        if not self.main:
            return {}
        scores = self.scores(unwrapped(model, Representation), "held_out").to_dict()
        wanted = ("mcr", "macro_f1", "rare_recall", "accuracy")
        return {f"held_out_{name}": 100 * value for name in wanted if isinstance(value := scores[name], float)}

    def scores(self, whole: Representation, part: str) -> ImbalanceScores:
        """Figures of the network's own head on "held_out" or "tested" pictures."""
        known = self.known(whole, part, views=1)
        with torch.no_grad():
            logits = whole.classify(known.features[0])
        return imbalance_scores(logits.softmax(1).double().cpu(), known.labels.cpu(), self.counts.tolist())

    @torch.no_grad()
    def known(self, whole: Representation, part: str, views: int | None = None) -> Known:
        """Features of "learnt", "held_out" or "tested" pictures, without files that are bad.

        Args:
            whole: Network.
            part: Which pictures.
            views: How many views of each; all if None.
        """
        data, rows = (self.divided.test if part == "tested" else self.data), getattr(self.divided, part)
        whole.eval()
        if self.method.frozen:
            found, labels = self._maps(whole, data, "tested" if part == "tested" else "learnt"), data.labels[rows]
            features = [
                torch.cat([self._pooled(whole, found[view, some].float()) for some in torch.split(rows, BATCH)])
                for view in range(len(self.views[:views]))
            ]
            return Known(torch.stack(features), labels.to(self.place.device), len(self.names))
        pooled: list[list[Tensor]] = [[] for _ in self.views[:views]]
        truths = []
        for batch in self._pictures(data, rows):
            is_good = batch.labels != NOBODY
            truths.append(batch.labels[is_good])
            for place, view in enumerate(self.views[:views]):
                pooled[place].append(self._pooled(whole, self._plain(_turned(batch.images[is_good], view))))
        labels = torch.cat(truths).to(self.place.device)
        return Known(torch.stack([torch.cat(some) for some in pooled]), labels, len(self.names))

    def _pooled(self, whole: Representation, x: Tensor) -> Tensor:
        with self._lower():
            return whole.features(x.to(self.place.device)).float()

    def _lower(self) -> torch.autocast:
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _plain(self, images: Tensor) -> Tensor:
        return normalise(images.to(self.place.device), self.input, self.recipe.channels_last)

    def _pictures(self, data: Data, rows: Tensor) -> Iterator[Batch]:
        measured = Measured(data[rows], self.learnt.side, self.input)
        feed: Feed[Tensor] = Feed(measured, (self.workers or 0) if measured.samples else 0)
        for batch in feed(list(torch.split(torch.arange(len(rows)), BATCH))):
            self.bad |= dict.fromkeys(batch.bad)
            yield batch

    @torch.no_grad()
    def _maps(self, whole: Representation, data: Data, part: str) -> Tensor:
        """(V, N, C', H', W') float16: what the learning part is given for every view of every picture of a set.

        Raises:
            InputError: A picture cannot be read.
        """
        recipe, method = self.recipe, self.method
        split = recipe.data.eval_split if part == "tested" and recipe.data.eval_split else recipe.data.split
        tail = (method.long_tail, method.division) if split == recipe.data.split else ()
        key = (
            *(str(self.place.data), recipe.data.name, split, recipe.data.size, tuple(self.views), tail),
            *(recipe.model, str(recipe.model_args), recipe.init, method.frozen, recipe.precision),
        )
        if key not in _MAPS:
            was_training, maps, start = whole.training, torch.zeros(0), 0
            whole.eval()
            for batch in self._pictures(data, torch.arange(len(data))):
                if batch.bad:
                    raise InputError(batch.bad[0], hint="mend or remove it: a frozen network learns from all there are")
                end = start + len(batch.images)
                for place, view in enumerate(self.views):
                    images = self._plain(_turned(batch.images, view))
                    if not len(maps):
                        whole.check(images[:2])
                    with self._lower():
                        found = whole.trunk(images)
                    if not len(maps):
                        maps = torch.empty((len(self.views), len(data), *found.shape[1:]), dtype=torch.float16)
                    maps[place, start:end] = found
                start = end
            whole.train(was_training)
            while len(_MAPS) >= KEPT:
                del _MAPS[next(iter(_MAPS))]
            _MAPS[key] = maps
        return _MAPS[key]


_MAPS: dict[tuple[Any, ...], Tensor] = {}  # runs of one study share them; the trunk never changes


def _turned(images: Tensor, view: tuple[bool, bool]) -> Tensor:
    """(B, H, W, C) mirrored, upside down, or both."""
    across, down = view
    return images.flip([axis for axis, is_flipped in ((2, across), (1, down)) if is_flipped])
