"""Two stages for classes of different size: features learnt with a metric loss, then a head learnt on balanced draws.

Our formulation of the method described in the abstract of Zeng et al., "Learning Discriminative Representation via
Metric Learning for Imbalanced Medical Image Classification", arXiv:2207.06975; the paper's body could not be read. A
training consists of several: every row of its table, on every fold or seed, the usual one-stage losses among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.losses.imbalance import (
    balanced_softmax,
    class_balanced_weights,
    deferred_weights,
    focal_loss,
    inverse_frequency_weights,
    ldam_loss,
    ldam_margins,
    weighted_cross_entropy,
)
from zoo.losses.metric import METRIC_LOSSES, new_metric_loss
from zoo.train import methods
from zoo.train.course import Place
from zoo.train.imbalance import ImbalanceCourse
from zoo.train.rebalance import SECOND_STAGES
from zoo.train.recipe import Recipe
from zoo.train.representation import SCALE, Representation, head_name, linear_head

__all__ = ["LOSSES", "ONE_STAGE", "SAMPLINGS", "Method", "stages_of"]

SAMPLINGS = ("natural", "square_root", "balanced", "progressive")
LOSSES = ("ce", "inverse_frequency", "class_balanced", "focal", "balanced_softmax", "ldam")
OVER_SAMPLING = "over_sampling"  # cross-entropy on balanced draws
ONE_STAGE = (*LOSSES, OVER_SAMPLING)
Trains = Callable[[Recipe, Path], Path]
Says = Callable[[str], None]

PROXY_RATE = 10.0  # times the learning rate, for proxies


@dataclass(frozen=True)
class Method(methods.Method):
    """One first stage; `rows` and `runs` say how many of them a training consists of, and what comes after.

    Args:
        rows: Lines of the table: a one-stage loss, or a loss, a metric loss and a second stage joined by "+", such as
            "focal", "ce+crt", "ce+triplet+crt". The last one becomes the model. The fields down to `sampling` are set
            by each row for its own first stage.
        runs: Trainings of each row; run r tests on fold r, or has seed r where the set has a part to test on.
        criterion: Loss of the head, one of `LOSSES`.
        metric: Metric loss beside it, one of `METRIC_LOSSES`; empty for none.
        share: What the metric loss counts.
        margin: Of triplets.
        metric_batch: "balanced" compares pictures of a second batch, as many of each of several classes; "shared" those
            of the one batch there is.
        classes: Classes of the second batch.
        each: Pictures of each.
        projection: Width of a small network in front of the metric loss; 0 compares the features themselves.
        sampling: How often classes come in the batch that the head learns from.
        beta: Of the class-balanced weights.
        gamma: Of the focal loss.
        frozen: First module that learns, such as "blocks.6"; empty to learn all. What lies before it runs once for each
            picture and its mirrors, so that pictures are not shifted, cut or coloured.
        upside_down: Whether pictures are also turned upside down; microscopes and dermatoscopes know no up.
        long_tail: Imbalance ratio that a balanced set is cut down to first; 0 leaves the set.
        folds: Parts of a set without a part to test on.
        fold: The one to test on.
        division: Seed of folds and long tails, the same for all runs.
        validation: Share of each class's other pictures that is set aside to choose on.
        pick: Whether the epoch with the best recall on those is taken, or the last one.
        head_epochs: Of a retrained head.
        head_lr: Of a retrained head.
    """

    rows: Sequence[str] = ("ce", "ce+crt", "ce+triplet+crt")
    runs: int = 1
    criterion: str = "ce"
    metric: str = ""
    share: float = 0.5
    margin: float = 0.3
    metric_batch: str = "balanced"
    classes: int = 8
    each: int = 4
    projection: int = 0
    sampling: str = "natural"
    beta: float = 0.999
    gamma: float = 2.0
    frozen: str = ""
    upside_down: bool = False
    long_tail: float = 0.0
    folds: int = 5
    fold: int = 0
    division: int = 0
    validation: float = 0.1
    pick: str = "best"
    head_epochs: int = 10
    head_lr: float = 0.1

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.criterion, LOSSES, "criterion"),
            (self.metric, ("", *METRIC_LOSSES), "metric"),
            (self.sampling, SAMPLINGS, "sampling"),
            (self.metric_batch, ("balanced", "shared"), "metric_batch"),
            (self.pick, ("best", "last"), "pick"),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}; it is one of {', '.join(filter(None, known))}")
        if not self.rows:
            raise ValueError("rows is empty; one row at least")
        for row in self.rows:
            stages_of(row)
        if min(self.runs, self.head_epochs, self.fold + 1) < 1 or min(self.folds, self.classes, self.each) < 2:
            raise ValueError("runs and head_epochs are at least 1, folds, classes and each at least 2")
        if not 0 <= self.validation < 1 or not 0 <= self.beta < 1 or (self.long_tail and self.long_tail < 1):
            raise ValueError("validation and beta lie in [0, 1), long_tail is 0 or at least 1")

    @property
    def needs_varied(self) -> bool:
        """Whether a second batch is drawn for the metric loss."""
        return bool(self.metric) and self.metric_batch == "balanced"

    def course(self, recipe: Recipe, place: Place) -> ImbalanceCourse:
        return ImbalanceCourse(recipe, self, place)

    def prepare(self, model: nn.Module) -> Representation:
        head = linear_head(model)
        width = self.projection or head.in_features
        metric = new_metric_loss(self.metric, head.out_features, width, self.margin) if self.metric else None
        return Representation(model, self.frozen, metric, self.projection, self.criterion == "ldam")

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(model, Representation)
        proxies = {id(parameter) for parameter in (model.metric.parameters() if model.metric else ())}
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [parameter for parameter in learnt if id(parameter) not in proxies]}]
        if proxies:
            own = [parameter for parameter in learnt if id(parameter) in proxies]
            groups.append({"params": own, "lr_scale": PROXY_RATE, "weight_decay": 0.0})
        return groups

    def criterion_of(self, logits: Tensor, labels: Tensor, counts: Tensor, epoch: int, epochs: int) -> Tensor:
        """Loss of the head.

        Args:
            logits: (B, K); scaled cosines for "ldam".
            labels: (B,).
            counts: (K,) pictures of each class that are learnt.
            epoch: From 0; the weights of "ldam" are deferred.
            epochs: Of the training.
        """
        match self.criterion:
            case "inverse_frequency":
                return weighted_cross_entropy(logits, labels, inverse_frequency_weights(counts))
            case "class_balanced":
                return weighted_cross_entropy(logits, labels, class_balanced_weights(counts, self.beta))
            case "focal":
                return focal_loss(logits, labels, self.gamma)
            case "balanced_softmax":
                return balanced_softmax(logits, labels, counts)
            case "ldam":
                weights = deferred_weights(counts, epoch, epochs)
                return ldam_loss(logits / SCALE, labels, ldam_margins(counts), SCALE, weights)
        return F.cross_entropy(logits, labels)

    def export(self, model: nn.Module) -> tuple[dict[str, Tensor], str]:
        assert isinstance(model, Representation)
        state = {key: value.contiguous() for key, value in model.network.state_dict().items()}
        if model.is_cosine:  # with directions of length 1 and no bias a plain head gives the same answers
            name = head_name(model.network)
            state[f"{name}.weight"] = SCALE * F.normalize(state[f"{name}.weight"], dim=1)
            state[f"{name}.bias"] = torch.zeros_like(state[f"{name}.bias"])
        return state, "float"

    def conduct(self, recipe: Recipe, out: Path, train: Trains, place: Place, say: Says) -> Path:
        from zoo.train.study import study

        return study(self, recipe, out, train, place, say)


def stages_of(row: str) -> tuple[str, str, str]:
    """Criterion, metric loss and second stage of a row; what it leaves out is empty.

    Raises:
        ValueError: It names something else.
    """
    first, *others = row.split("+")
    metric = others.pop(0) if others and others[0] in METRIC_LOSSES else ""
    second = others.pop(0) if others and others[0] in SECOND_STAGES else ""
    if first not in ONE_STAGE or others:
        raise ValueError(
            f"row {row!r}: {(others or [first])[0]!r} is no stage; a row is LOSS, LOSS+METRIC, LOSS+STAGE or "
            f"LOSS+METRIC+STAGE with losses {', '.join(ONE_STAGE)}, metrics {', '.join(METRIC_LOSSES)}, "
            f"stages {', '.join(SECOND_STAGES)}"
        )
    return first, metric, second
