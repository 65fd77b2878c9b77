"""How well a network re-identifies people on a labelled set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

__all__ = ["Direction", "ReidEvaluation"]

FIGURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
HEADS = ("R-1", "R-5", "R-10", "R-20", "mAP", "mINP")


@dataclass(frozen=True)
class Direction:
    """Queries of one modality against a gallery of the other, over one or more trials.

    Attributes:
        name: Such as "infrared to visible".
        trials: The scores of each: rank1 to rank20, mAP and mINP in [0, 1], cmc, queries, skipped.
    """

    name: str
    trials: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError("no trial")

    def mean(self, figure: str) -> float:
        """Mean over the trials, in per cent."""
        return 100 * fmean(trial[figure] for trial in self.trials)

    def deviation(self, figure: str) -> float:
        """Standard deviation over the trials, in per cent; 0 of one."""
        return 100 * stdev(trial[figure] for trial in self.trials) if len(self.trials) > 1 else 0.0

    def curve(self) -> list[float]:
        """CMC in per cent, mean over the trials, as far as all of them go."""
        length = min(len(trial["cmc"]) for trial in self.trials)
        return [100 * fmean(trial["cmc"][k] for trial in self.trials) for k in range(length)]


@dataclass(frozen=True, eq=False, repr=False)
class ReidEvaluation:
    """The figures, and all that somebody needs to know to compare them.

    Attributes:
        model: Checkpoint's name.
        dataset: Folder or table.
        protocol: "sysu", "regdb", "vcm" or "market".
        directions: What was asked of what.
        settings: Mode, shots, gallery rule, feature, mirror, re-ranking and the like, plain values by name.
        thresholds: What a threshold on the similarity does, on the pairs of the first trial: fpr, tpr, similarity.
        failed: What is wrong with pictures that could not be used; they count nowhere.
        seconds: Wall clock of the run.
    """

    model: str
    dataset: str
    protocol: str
    directions: tuple[Direction, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    thresholds: tuple[Mapping[str, Any], ...] = ()
    failed: tuple[ZooError, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.directions:
            raise ValueError("no direction")

    def __repr__(self) -> str:
        first = self.directions[0]
        figures = f"R-1 {first.mean('rank1'):.2f}%, mAP {first.mean('mAP'):.2f}%, mINP {first.mean('mINP'):.2f}%"
        return f"ReidEvaluation({self.model} on {self.dataset}: {figures}, {first.name})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; figures in per cent."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "settings": dict(self.settings),
            "directions": [
                {
                    "name": direction.name,
                    "mean": {name: direction.mean(name) for name in FIGURES},
                    "deviation": {name: direction.deviation(name) for name in FIGURES},
                    "cmc": direction.curve(),
                    "trials": [dict(trial) for trial in direction.trials],
                }
                for direction in self.directions
            ],
            "thresholds": [dict(threshold) for threshold in self.thresholds],
            "failed": [error.message for error in self.failed],
            "seconds": self.seconds,
        }

    def markdown(self) -> str:
        """The figures as a table, with what they were measured under."""
        rows = [
            f"| {direction.name} | " + " | ".join(self._cells(direction)) + f" | {self._counts(direction)} |"
            for direction in self.directions
        ]
        head = f"| {self.protocol} | " + " | ".join(HEADS) + " | trials, queries, skipped |"
        rule = "|---" * (len(HEADS) + 2) + "|"
        lines = [f"**{self.model}** on {self.dataset}: {self._under()}", "", head, rule, *rows]
        if self.thresholds:
            lines += ["", "| false positives of different pairs | true positives of same pairs | similarity from |"]
            lines += ["|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in self._threshold_rows())]
        return "\n".join(lines) + "\n"

    def draw(self) -> "Image":
        """CMC curves."""
        from zoo.viz.curves import curves

        series = {
            direction.name: list(enumerate(direction.curve(), 1)) for direction in self.directions if direction.curve()
        }
        return curves({name: [(float(x), y) for x, y in points] for name, points in series.items()}, across="rank")

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for head in HEADS:
            table.add_column(head, justify="right")
        for direction in self.directions:
            table.add_row(Text(direction.name, style="bold"), *(f"{direction.mean(name):.2f}" for name in FIGURES))
            trials, queries, skipped = self._counts(direction).split(", ")
            spread = [f"±{direction.deviation(name):.2f}" if trials != "1" else "" for name in FIGURES]
            table.add_row(f"trials {trials}, queries {queries}, skipped {skipped}", *spread, style="dim")
        parts: list[Any] = [Text(f"{self.model} on {self.dataset}", style="bold"), Text(self._under()), Text(), table]
        if self.thresholds:
            pairs = Table(box=None, pad_edge=False)
            for head in ("false positives", "true positives", "similarity from"):
                pairs.add_column(head, justify="right")
            for row in self._threshold_rows():
                pairs.add_row(*row)
            parts += [Text(), pairs]
        return Group(*parts)

    def _cells(self, direction: Direction) -> list[str]:
        if len(direction.trials) == 1:
            return [f"{direction.mean(name):.2f}" for name in FIGURES]
        return [f"{direction.mean(name):.2f} ± {direction.deviation(name):.2f}" for name in FIGURES]

    def _counts(self, direction: Direction) -> str:
        first = direction.trials[0]
        return f"{len(direction.trials)}, {first['queries'] + first['skipped']:,}, {first['skipped']:,}"

    def _under(self) -> str:
        """Protocol and settings in one line."""
        said = [f"protocol {self.protocol}"]
        for name, value in self.settings.items():
            said.append(f"{name.replace('_', ' ')} {('yes' if value else 'no') if isinstance(value, bool) else value}")
        return ", ".join(said)

    def _threshold_rows(self) -> Sequence[tuple[str, str, str]]:
        return [
            (
                f"{100 * one['fpr']:.3g}%",
                f"{100 * one['tpr']:.1f}%",
                "no pair" if one["similarity"] is None else f"{one['similarity']:.4f}",
            )
            for one in self.thresholds
        ]
