"""Several trainings in one table: every row on every fold or seed, each finished part kept.

stage1/<loss>/<run>/     a first stage, see `zoo.train.folder`, and <row>.safetensors of each row that is built on it
rows.json                figures of every row and run that is finished
table.md                 the table
stage1.safetensors       the network behind the last row's first stage, for a second stage of your own
model.safetensors        the network of the last row, of the run that did best on its held-out pictures
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from zoo.data.balance import class_counts
from zoo.hub.checkpoint import facts_for, write_whole
from zoo.interop.timm_names import architecture_of
from zoo.metrics.imbalance import ImbalanceScores, imbalance_scores
from zoo.train import folder
from zoo.train.course import Place
from zoo.train.imbalance import ImbalanceCourse, divide
from zoo.train.methods import new_method
from zoo.train.networks import new_network
from zoo.train.rebalance import Head, Known, Retraining, second_stage
from zoo.train.recipe import Recipe
from zoo.train.representation import Representation, head_name, linear_head

if TYPE_CHECKING:
    from zoo.train.methods.metric_imbalance import Method

__all__ = ["study", "table"]

SHOWN = {  # figures of the table, in per cent, and what they are called there
    "mcr": "mean class recall",
    "macro_f1": "macro F1",
    "rare_recall": "recall of the rarest third",
    "g_mean": "G-mean",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
Figures = dict[str, Any]


def study(
    method: "Method",
    recipe: Recipe,
    out: Path,
    train: Callable[[Recipe, Path], Path],
    place: Place,
    say: Callable[[str], None],
) -> Path:
    """All rows of a method's table; returns the last one's checkpoint.

    Args:
        method: Says which rows, and how often.
        recipe: Of each training.
        out: Folder of it all.
        train: Trains by a recipe in a folder, or goes on there; returns the finished checkpoint's file.
        place: Where heads are trained and figures measured.
        say: Tells the user something.

    Raises:
        ZooError: As of the data and the training.
    """
    _introduce(method, recipe, place, say)
    folder.claim(out, recipe)
    results = out / "rows.json"
    done: dict[str, dict[str, Figures]] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    for run in range(method.runs):
        for (first, metric), rows in _by_first_stage(method.rows).items():
            if not any(str(run) not in done.get(row, {}) for row in rows):
                continue
            say(f"{first}{' + ' + metric if metric else ''}, run {run + 1} of {method.runs}")
            one, where = _of_run(recipe, first, metric, run), _folder_of(out, rows[0], run)
            last, best = train(one, where), where / "best.safetensors"
            picked = best if method.pick == "best" and best.exists() else last
            for row, figures in _measured(one, rows, picked, place):
                done.setdefault(row, {})[str(run)] = figures
                known = {SHOWN[key]: figures[key] for key in ("mcr", "rare_recall") if figures[key] is not None}
                say(f"  {row}: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in known.items()))
            write_whole(results, json.dumps(done, indent=1).encode())
    text = table({row: list(done[row].values()) for row in method.rows})
    write_whole(out / "table.md", text.encode())
    for line in text.splitlines():
        say(line)
    return _publish(out, method, done[method.rows[-1]])


def table(rows: Mapping[str, Sequence[Figures]]) -> str:
    """Mean and deviation of each row's figures in per cent, in Markdown; a figure that some lack is left out."""
    shown = [key for key in SHOWN if all(run[key] is not None for runs in rows.values() for run in runs)]
    lines = ["| | " + " | ".join(SHOWN[key] for key in shown) + " |", "|---|" + "---|" * len(shown)]
    for row, runs in rows.items():
        cells = []
        for key in shown:
            values = [100 * run[key] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _introduce(method: "Method", recipe: Recipe, place: Place, say: Callable[[str], None]) -> None:
    """What the data is, before anything is done with it."""
    divided = divide(recipe, method, place.data)
    names, counts = divided.data.names, class_counts(divided.data.labels, len(divided.data.names)).tolist()
    in_order = sorted(range(len(names)), key=lambda label: -counts[label])
    listed = [f"{names[label]} {counts[label]:,}" for label in in_order]
    shown = ", ".join(listed if len(listed) <= 12 else [*listed[:6], "...", *listed[-6:]])
    ratio = max(counts) / min(counts)
    say(f"{len(names)} classes, {sum(counts):,} pictures, imbalance ratio {ratio:.1f}: {shown}")
    learnt, held_out, tested = (len(part) for part in (divided.learnt, divided.held_out, divided.tested))
    say(f"{learnt:,} pictures to learn from, {held_out:,} to choose on, {tested:,} to test on")
    alone = [name for name, count in zip(names, divided.counts.tolist(), strict=True) if count < 2]
    if alone and any(metric for _, metric in _by_first_stage(method.rows)):
        say(f"a single picture to learn from: {', '.join(alone)}; the metric loss needs two and passes over them")


def _by_first_stage(rows: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Rows by what is trained in their first stage, in order."""
    from zoo.train.methods.metric_imbalance import stages_of

    found: dict[tuple[str, str], list[str]] = {}
    for row in dict.fromkeys(rows):
        first, metric, _ = stages_of(row)
        found.setdefault((first, metric), []).append(row)
    return found


def _folder_of(out: Path, row: str, run: int) -> Path:
    """Folder of the first stage that a row is built on."""
    ((first, metric),) = _by_first_stage([row])
    return out / "stage1" / "_".join(filter(None, (first, metric))) / str(run)


def _of_run(recipe: Recipe, first: str, metric: str, run: int) -> Recipe:
    """The recipe of one first stage."""
    sampling = {"sampling": "balanced", "criterion": "ce"} if first == "over_sampling" else {"criterion": first}
    folds = {} if recipe.data.eval_split else {"fold": recipe.method_args.get("fold", 0) + run}
    args = {**recipe.method_args, **sampling, "metric": metric, **folds}
    for key in ("rows", "runs"):
        args.pop(key, None)
    return msgspec.structs.replace(recipe, seed=recipe.seed + run, method_args=args)


def _measured(recipe: Recipe, rows: Sequence[str], file: Path, place: Place) -> list[tuple[str, Figures]]:
    """Figures on the test pictures of every row on one first stage; each row's network is left beside the stage's."""
    from zoo.train.methods.metric_imbalance import Method, stages_of

    method = new_method(recipe.method, **recipe.method_args)
    assert isinstance(method, Method)
    course = ImbalanceCourse(recipe, method, place)
    network, builder_args = new_network(msgspec.structs.replace(recipe, init=""), course.builder_args)
    network.load_state_dict(load_file(file))
    whole = method.prepare(network).to(place.device).eval()
    if recipe.channels_last:
        whole = whole.to(memory_format=torch.channels_last)
    tested, held_out = (course.known(whole, part, views=1) for part in ("tested", "held_out"))
    learnt: Known | None = None
    found = []
    for row in rows:
        second, head = stages_of(row)[2], None
        if second:
            learnt = learnt or course.known(whole, "learnt")
            how = Retraining(epochs=method.head_epochs, lr=method.head_lr, seed=recipe.seed)
            head = second_stage(second, _own_head(whole), learnt, held_out, how)
        figures = _scores(whole, head, tested, course.counts).to_dict()
        chosen_by = _scores(whole, head, held_out, course.counts).mcr if len(held_out.labels) else 0.0
        found.append((row, {**figures, "held_out_mcr": chosen_by, "note": head.note if head else ""}))
        facts = {**course.facts, "stage": 2 if second else 1, "row": row, "recipe": json.loads(recipe.to_json())}
        content = save(_state(method, whole, head), facts_for(architecture_of(recipe.model), builder_args, **facts))
        write_whole(file.with_name(f"{row}.safetensors"), content)
    return found


def _own_head(whole: Representation) -> Head:
    head = linear_head(whole.network)
    return Head(head.weight.detach(), head.bias.detach())


def _scores(whole: Representation, head: Head | None, known: Known, counts: Tensor) -> ImbalanceScores:
    with torch.no_grad():
        logits = (head or whole.classify)(known.features[0])
    return imbalance_scores(logits.double().softmax(1).cpu(), known.labels.cpu(), counts.tolist())


def _state(method: "Method", whole: Representation, head: Head | None) -> dict[str, Tensor]:
    """The network's tensors, with a head in its own one's place if there is another."""
    state, _ = method.export(whole)
    if head:
        name = head_name(whole.network)
        state |= {f"{name}.weight": head.weight, f"{name}.bias": head.bias}
    return {key: value.cpu().contiguous() for key, value in state.items()}


def _publish(out: Path, method: "Method", runs: Mapping[str, Figures]) -> Path:
    """Put the last row's best network, and its first stage's, where they are looked for."""
    row = method.rows[-1]
    best = max(runs, key=lambda run: runs[run]["held_out_mcr"])
    where = _folder_of(out, row, int(best))
    first = where / "best.safetensors"
    first = first if method.pick == "best" and first.exists() else where / "model.safetensors"
    write_whole(out / "stage1.safetensors", first.read_bytes())
    write_whole(out / "model.safetensors", (where / f"{row}.safetensors").read_bytes())
    return out / "model.safetensors"
