"""SGIEL: identities told apart by what is left of the embedding outside its shape subspace.

Feng, Wu, Zheng, "Shape-Erased Feature Learning for Visible-Infrared Person Re-Identification", CVPR 2023,
arXiv:2304.04205, and the released code. Unlike there, the best weights are chosen on identities that are neither learnt
nor tested.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data.crops import Crops, open_crops
from zoo.data.images import read_picture
from zoo.data.transforms import Preprocess
from zoo.errors import UsageError, ZooError
from zoo.interop.timm_names import timm_network
from zoo.layers.wrapped import unwrapped
from zoo.losses.sgiel import (
    complementary,
    consistency,
    dynamic_weights,
    exchange,
    hard_triplet,
    least_alike,
    mixed_cross_entropy,
    mutual,
    orthogonality,
    rectangle,
    weighted_triplet,
)
from zoo.metrics.reid import reid_scores
from zoo.models.sgiel import SGIEL, Photographs, Shapes
from zoo.tasks.decode import spare_cores
from zoo.train import methods
from zoo.train.course import Place
from zoo.train.feed import Feed
from zoo.train.networks import input_of, normalise
from zoo.train.pairs import Pairs, PairsPart, ToLearn, changed, steps_of
from zoo.train.recipe import Recipe

__all__ = ["Method", "Pair", "PairCourse", "total"]

QUICK = ("classifier", "neck", "projections")  # parts of the teacher that follow twice as fast
EXAM_BATCH = 128
SLOW = 128  # height from which decoding a step's pictures takes so long that further processes pay


class Pair(nn.Module):
    """The network that learns beside its average, the teacher.

    The teacher's weights follow the student's; its norms collect statistics of their own from the same batches.

    Args:
        student: The network.
    """

    student: SGIEL
    teacher: SGIEL

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = cast(SGIEL, student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, *batch: Tensor) -> tuple[Photographs, Shapes | None, Shapes | None]:
        """What the student sees of photographs and shape maps, and the teacher of the maps.

        Args:
            batch: Visible and infrared photographs, (B, C, H, W) each, and their shape maps, if there are any.
        """
        photographs, maps = batch[:2], batch[2:]
        with torch.no_grad():
            self.teacher.learn(*photographs)  # for the statistics of its norms
            taught = self.teacher.learn_shapes(*maps) if maps else None
        return self.student.learn(*photographs), self.student.learn_shapes(*maps) if maps else None, taught

    @torch.no_grad()
    def follow(self, alpha: float) -> None:
        """Move the teacher's weights by a share towards the student's, those of heads and necks by two."""
        quick: tuple[list[Tensor], list[Tensor]] = ([], [])
        slow: tuple[list[Tensor], list[Tensor]] = ([], [])
        theirs = dict(self.student.named_parameters())
        for name, value in self.teacher.named_parameters():
            for side, tensor in zip(quick if name.startswith(QUICK) else slow, (value, theirs[name]), strict=True):
                side.append(tensor.detach())
        torch._foreach_lerp_(*slow, alpha)
        torch._foreach_lerp_(*quick, min(2 * alpha, 1.0))


@dataclass
class Method(methods.Method):
    """SGIEL's losses on steps of identities with pictures of both modalities.

    Args:
        identities: In a step.
        views: Pictures of each identity and modality in a step; `schedule.batch_size` is 2 identities views.
        windows: Pairs (epoch, E) that begin with epoch 0: from that epoch on the teacher moves by 1/E a step.
        cutmix: Share of the steps whose pictures get a rectangle of the other modality.
        triplet: "hard", or the "weighted" one that the released code has as an option.
        backbone: timm's name of a plain ResNet whose weights are the first ones; random if empty.
        backbone_lr: Learning rate of stems and trunk by that of the rest.
        ramp: Share of the training over which the losses between predictions grow to their full weight. From random
            weights they would hold each other at nothing known; published: 0, from ImageNet weights.
        shape: Whether shape maps and the losses around them take part; without them, the baseline.
        keep: Which network is chosen by and kept.
    """

    identities: int = 8
    views: int = 4
    windows: tuple[tuple[int, float], ...] = ((0, 1e3), (20, 1e4), (85, 1e5))
    cutmix: float = 0.0
    triplet: Literal["hard", "weighted"] = "hard"
    backbone: str = ""
    backbone_lr: float = 0.1
    ramp: float = 0.0
    shape: bool = True
    keep: Literal["student", "teacher"] = "teacher"

    def __post_init__(self) -> None:
        if self.identities < 2 or self.views < 1:
            raise ValueError("a step has at least two identities, and a view of each")
        if not 0 <= self.cutmix <= 1 or not 0 <= self.ramp <= 1 or self.backbone_lr <= 0:
            raise ValueError("cutmix and ramp lie in [0, 1], backbone_lr above 0")
        if self.triplet not in ("hard", "weighted") or self.keep not in ("student", "teacher"):
            raise ValueError("triplet is hard or weighted, keep is student or teacher")
        starts = [epoch for epoch, _ in self.windows]
        if starts[:1] != [0] or starts != sorted(set(starts)) or min(window for _, window in self.windows) < 1:
            raise ValueError("windows begin with epoch 0, grow, and hold at least a step")
        self._alpha, self._ramped = 0.0, 1.0
        self._last: dict[str, Tensor] = {}  # of the latest step, for the log

    def course(self, recipe: Recipe, place: Place) -> "PairCourse":
        return PairCourse(recipe, self, place)

    def prepare(self, model: nn.Module) -> Pair:
        return Pair(model)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        student = cast(Pair, model).student
        trunk: list[nn.Parameter] = []
        heads: list[nn.Parameter] = []
        for name, value in student.named_parameters():
            if value.requires_grad:
                (heads if name.startswith(QUICK) else trunk).append(value)
        return [{"params": trunk, "lr_scale": self.backbone_lr}, {"params": heads}]

    def start(self, model: nn.Module) -> None:
        if self.backbone:
            pair = cast(Pair, model)
            pair.student.load_backbone(_plain_resnet(self.backbone))
            pair.teacher.load_state_dict(pair.student.state_dict())

    def start_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self._alpha = 1 / [window for first, window in self.windows if first <= epoch][-1]
        self._ramped = min(1.0, epoch / (self.ramp * epochs)) if self.ramp else 1.0

    def after_step(self, model: nn.Module, step: int) -> None:
        cast(Pair, model).follow(self._alpha)

    def lesson(self, model: nn.Module, batch: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Loss of a step.

        Args:
            model: The pair, or what wraps it.
            batch: Visible and infrared photographs, (B, C, H, W) each, and their shape maps, if there are any.
            labels: (B,) identities of the rows.
        """
        if self.cutmix and float(torch.rand(())) < self.cutmix:
            return self._mixed(model, batch, labels)
        self._last = self.terms(model, batch, labels)
        return total(self._last, self._ramped)

    def terms(self, model: nn.Module, batch: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        """The losses of a step without CutMix by name, and the weights of those that have one; see `lesson`."""
        photographs, shapes, taught = model(*batch)
        both = labels.repeat(2)
        terms = {
            "identity": F.cross_entropy(photographs.logits, both),
            "triplet": self._triplet(photographs.pooled, both),
            "mutual": mutual(photographs.logits),
        }
        if shapes is None:
            return terms
        student = unwrapped(model, Pair).student
        erased = F.cross_entropy(photographs.erased_logits, both)
        agreement = complementary(photographs.erased_logits, least_alike(shapes.code, labels))
        head = student.get_parameter("classifier_shape.weight")
        estimate = consistency(photographs.code, taught.code, taught.logits, head)
        w1, w2 = dynamic_weights(erased + self._ramped * agreement, estimate, photographs.pooled)
        return terms | {
            "shape": F.cross_entropy(shapes.logits, both),
            "orthogonality": orthogonality(student.projections["photograph"]),
            "erased": erased,
            "complementary": agreement,
            "consistency": estimate,
            "consistency_weight": w1,
            "erased_weight": w2,
        }

    def report(self, model: nn.Module) -> dict[str, float]:
        return {name: float(value.detach()) for name, value in self._last.items()}

    def _mixed(self, model: nn.Module, batch: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Loss of a step whose pictures, and maps alike, get a rectangle of another row of the other modality."""
        size = (batch[0].shape[2], batch[0].shape[3])
        share = float(torch.rand(()))  # Beta(1, 1)
        area = rectangle(size, share, (int(torch.randint(size[0], ())), int(torch.randint(size[1], ()))))
        order = torch.randperm(len(labels)).to(labels.device)
        mixed: list[Tensor] = []
        for visible, infrared in (batch[:2], batch[2:])[: len(batch) // 2]:
            *pictures, left = exchange(visible, infrared, order, area)
            mixed += pictures
        photographs, shapes, _ = model(*mixed)
        own, others = labels.repeat(2), labels[order].repeat(2)
        loss = mixed_cross_entropy(photographs.logits, own, others, left) + self._ramped * mutual(photographs.logits)
        if shapes is not None:
            loss = loss + mixed_cross_entropy(shapes.logits, own, others, left)
            loss = loss + orthogonality(unwrapped(model, Pair).student.projections["photograph"])
        return loss

    def _triplet(self, pooled: Tensor, labels: Tensor) -> Tensor:
        return hard_triplet(pooled, labels) if self.triplet == "hard" else weighted_triplet(pooled, labels)

    def export(self, model: nn.Module) -> tuple[dict[str, Tensor], str]:
        kept = cast(Pair, model).get_submodule(self.keep)
        state = {key: value.contiguous() for key, value in kept.state_dict().items()}
        return state, "float"


class PairCourse:
    """Steps of identities with pictures of both modalities, and a search among others to measure it by.

    `data.name` and `data.split` are those of `open_crops`; `data.eval_split` is the part that is measured on, or, where
    the set has none, `data.held_out` counts the identities that a seed sets aside for it.

    Args:
        recipe: What to do.
        method: Whose losses they are.
        place: Where.

    Raises:
        InputError: The data cannot be had, or has too few identities.
        UsageError: The batch is not the steps', or does not divide among processes and parts.
    """

    def __init__(self, recipe: Recipe, method: Method, place: Place) -> None:
        self.recipe, self.method, self.device = recipe, method, place.device
        rows, schedule = method.identities * method.views, recipe.schedule
        if schedule.batch_size != 2 * rows:
            raise UsageError(
                f"schedule.batch_size is {schedule.batch_size}; {method.identities} identities with {method.views} "
                f"pictures of each modality are {2 * rows}",
                hint=f"schedule.batch_size={2 * rows}",
            )
        if method.identities % (place.world * schedule.accumulate):
            raise UsageError(
                f"{method.identities} identities do not divide into {schedule.accumulate} parts on {place.world} "
                "processes",
                hint="change method_args.identities and schedule.batch_size",
            )
        self.input = input_of(recipe.model)
        learnt = open_crops(recipe.data.name, recipe.data.split, place.data)
        exam, name = None, recipe.data.eval_split
        if name:
            exam = open_crops(recipe.data.name, name, place.data)
        elif recipe.data.held_out:
            name = "held_out"
            learnt, exam = _set_aside(learnt, recipe.data.held_out, recipe.seed)
        self.learnt = ToLearn(
            learnt,
            method.identities,
            method.views,
            self.input,
            recipe.seed,
            shapes=method.shape,
            rank=place.rank,
            world=place.world,
        )
        self.exam, self.name = exam, name
        self.builder_args = {"num_classes": len(self.learnt.names)}
        self.facts = {"identities": self.learnt.names}
        self.main = f"{name}_{method.keep}_mAP" if exam else ""
        self.steps = steps_of(learnt, rows)
        self.count = len(learnt) + (len(exam) if exam else 0)
        self.bad: dict[str, None] = {}
        self.feed: Feed[tuple[int, int]] = Feed(
            self.learnt,  # type: ignore[arg-type]  # the feed hands on whatever the data set makes
            (spare_cores() if self.input.size[1] >= SLOW else 0) if place.workers is None else place.workers,
            pin=place.device.type == "cuda",
        )

    def begin(self) -> None:
        pass

    def batches(self, epoch: int, first: int) -> Iterator[Pairs]:
        return cast(Iterator[Pairs], self.feed([(epoch, step) for step in range(first, self.steps)]))

    def loss(self, model: nn.Module, part: PairsPart) -> Tensor:
        photographs = [
            changed(self._prepared(x), areas, channels)
            for x, areas, channels in zip(part.photographs, part.areas, part.channels, strict=True)
        ]
        maps = [] if part.shapes is None else [self._prepared(x) for x in part.shapes]
        return self.method.lesson(model, (*photographs, *maps), part.labels.to(self.device, non_blocking=True))

    def _prepared(self, pixels: Tensor) -> Tensor:
        return normalise(pixels.to(self.device, non_blocking=True), self.input, self.recipe.channels_last)

    def measure(self, model: nn.Module) -> dict[str, float]:
        if self.exam is None:
            return {}
        pair, figures = cast(Pair, model), {}
        vectors, seen = self._embedded({"student": pair.student, "teacher": pair.teacher}, self.exam)
        exam = self.exam.where(seen)
        queries = exam.infrared
        for name, embedded in vectors.items():
            scores = reid_scores(
                -(embedded[queries] @ embedded[~queries].T),
                exam.ids[queries],
                exam.ids[~queries],
                exam.cameras[queries],
                exam.cameras[~queries],
                "sysu" if self.recipe.data.name == "sysu-mm01" else "regdb",
            )
            figures[f"{self.name}_{name}_rank1"] = 100 * scores.rank(1)
            figures[f"{self.name}_{name}_mAP"] = 100 * scores.mAP
        return figures

    @torch.no_grad()
    def _embedded(
        self, networks: Mapping[str, SGIEL], crops: Crops
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        """Embeddings of the pictures that can be read, for each network, and which pictures these are."""
        crop = Preprocess(self.input).crop
        seen = np.zeros(len(crops), np.bool_)
        width = next(iter(networks.values())).num_features
        vectors = {name: np.zeros((len(crops), width), np.float32) for name in networks}
        for network in networks.values():
            network.eval()
        for modality, chosen in (("visible", ~crops.infrared), ("infrared", crops.infrared)):
            for places in np.array_split(np.flatnonzero(chosen), -(-int(chosen.sum()) // EXAM_BATCH) or 1):
                pixels = []
                for place in places:
                    try:
                        pixels.append(crop(read_picture(crops.photographs[place]).image))
                        seen[place] = True
                    except ZooError as error:
                        self.bad[error.message] = None
                if pixels:
                    x = self._prepared(torch.from_numpy(np.stack(pixels)))
                    for name, network in networks.items():
                        vectors[name][places[seen[places]]] = network.embed(x, modality).float().cpu().numpy()
        return {name: rows[seen] for name, rows in vectors.items()}, seen


def total(terms: Mapping[str, Tensor], ramp: float = 1.0) -> Tensor:
    """The weighted sum of a step's losses.

    Args:
        terms: From `Method.terms`.
        ramp: Share in which the losses between predictions count.
    """
    sum_ = terms["identity"] + terms["triplet"] + ramp * terms["mutual"]
    if "shape" not in terms:
        return sum_
    erased = terms["erased"] + ramp * terms["complementary"]
    weighted = terms["consistency_weight"] * terms["consistency"] + terms["erased_weight"] * erased
    return sum_ + terms["shape"] + terms["orthogonality"] + weighted


def _set_aside(crops: Crops, identities: int, seed: int) -> tuple[Crops, Crops]:
    """Crops of the identities that are learnt, and of those that a seed sets aside."""
    known = np.unique(crops.ids)
    if identities >= len(known):
        raise UsageError(f"{identities} of {len(known)} identities cannot be held out", hint="lower data.held_out")
    aside = np.random.default_rng((seed, 1)).permutation(known)[:identities]
    return crops.where(~np.isin(crops.ids, aside)), crops.where(np.isin(crops.ids, aside))


def _plain_resnet(name: str) -> dict[str, Tensor]:
    """Weights of a ResNet of timm's.

    Raises:
        UsageError: There is none of that name, or it has no weights.
        WeightsUnavailable: They cannot be fetched.
    """
    import timm

    if not timm.is_model_pretrained(name):
        raise UsageError(f"timm has no weights of {name!r}", hint="method_args.backbone=resnet50.tv_in1k")
    return timm_network(name, pretrained=True).state_dict()
