"""What there is: list, info."""

import sys
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Debug, Json, Name

if TYPE_CHECKING:
    from zoo.registry.card import Card, Figure

PANEL = "Find a model"
ENGINES = {  # by the bits of a binary network's activations
    1: "on a CPU from packed bits, equal to the float simulation that runs elsewhere; zoo doctor says what runs here",
    32: "float simulation: with real activations, packed weights would save memory only",
}


@app.command("list", rich_help_panel=PANEL)
def list_(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or shell wildcards; quote these.")] = "*",
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="classify, embed, reid, retrieve, ground, filter or teach.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    r"""List the models.

    [bold]Examples[/]

    zoo list
    zoo list pslt
    zoo list 'reste*18*' --task classify
    zoo list --json | jq -r '.\[].name'
    """
    from zoo.registry.names import list_names, load_card, nearest_names

    wanted = pattern if has_magic(pattern) else f"*{pattern}*"
    cards = [load_card(name) for name in list_names(wanted, task=_task(task))]
    if json:
        out.data([_row(card) for card in cards])
    elif cards:
        columns = ("name", "task", "params", "GMACs", "input", "size", "figure", "weights")
        out.table(
            columns,
            [_cells(card) for card in cards],
            right=("params", "GMACs", "input", "size"),
            spare=("GMACs", "size", "task", "input"),
        )
        if any(_is_papers(card) for card in cards):
            out.say("* the paper's figure; ours was not measured yet")
    else:
        near = nearest_names(pattern.strip("*")) if pattern.strip("*?") else []
        out.say(f"no model matches {pattern!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))


@app.command(rich_help_panel=PANEL)
def info(name: Name, json: Json = False, debug: Debug = False) -> None:
    """Show all that is known about a model.

    [bold]Examples[/]

    zoo info reste_resnet20_cifar
    zoo info reste_resnet20_cifar.c10 --json
    """
    if name.endswith(".zoo"):
        from zoo.cli.teach import show_taught

        show_taught(Path(name), json=json)
        return
    from zoo.registry.names import resolve

    card = resolve(name)
    if json:
        import msgspec

        out.data(msgspec.to_builtins(card))
        return
    out.line(out.style(card.name, "bold") + f"  {card.summary}")
    out.line()
    for key, value in _facts(card):
        out.fact(key, value)
    _figures(card)
    for limit in card.limits:
        out.fact("limit", limit)
    out.line()
    if out.is_terminal(sys.stdout):
        from rich.markdown import Markdown

        out.rich(Markdown(card.body))
    else:
        out.line(card.body)


def _task(task: str | None) -> str | None:
    from typing import get_args

    from zoo.errors import UsageError
    from zoo.registry.card import Task

    if task is not None and task not in get_args(Task):
        raise UsageError(f"no task {task!r}", hint=", ".join(get_args(Task)))
    return task


def _row(card: "Card") -> dict[str, Any]:
    figure = card.figure() or card.figure("paper")
    return {
        "name": card.name,
        "task": card.task,
        "summary": card.summary,
        "params": card.params,
        "gmacs": card.gmacs,
        "input": list(card.input.size),
        "bytes": card.weights.bytes,
        "figure": {key: getattr(figure, key) for key in ("metric", "value", "dataset", "by")} if figure else None,
        "weights": card.weights.status,
        "license": card.license,
    }


def _cells(card: "Card") -> tuple[str, ...]:
    _, height, width = card.input.size
    return (
        card.name,
        card.task,
        _count(card.params),
        "-" if card.gmacs is None else f"{card.gmacs:.2f}",
        "any" if card.task == "filter" else f"{width}x{height}",
        out.size(card.weights.bytes),
        _figure(card),
        card.weights.status,
    )


def _count(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} M" if count >= 999_500 else f"{count / 1e3:.0f} k"


def _is_papers(card: "Card") -> bool:
    return card.figure() is None and card.figure("paper") is not None


def _figure(card: "Card") -> str:
    """Our main figure, or the paper's with a star."""
    ours, paper = card.figure(), card.figure("paper")
    if ours:
        return f"{ours.metric} {ours.value:g}"
    return f"{paper.metric} {paper.value:g}*" if paper else "-"


def _facts(card: "Card") -> list[tuple[str, str]]:
    channels, height, width = card.input.size
    place = card.weights.status + (
        f", {out.size(card.weights.bytes)}, {card.weights.format}" if card.weights.bytes else ""
    )
    facts = [
        ("task", card.task),
        ("weights", place),
        ("license", card.license),
        ("params", f"{card.params:,}" if card.params else ""),
        ("GMACs", f"{card.gmacs:g}" if card.gmacs else ""),
        (
            "input",
            "pictures of any size"
            if card.task == "filter"
            else f"{width}x{height} pixels, {channels} channels, "
            f"{card.input.interpolation}, crop {card.input.crop_pct:g}",
        ),
        ("engine", ENGINES.get(card.builder_args.get("act_bits", 0), "")),
        ("labels", card.labels or ""),
        ("aliases", ", ".join(card.aliases)),
    ]
    if card.paper:
        where = f", arXiv:{card.paper.arxiv}" if card.paper.arxiv else ""
        facts.append(("paper", f"{card.paper.title} ({card.paper.venue or card.paper.year}{where})"))
    if card.origin:
        made = ", ".join(filter(None, (card.origin.recipe, *card.origin.data, card.origin.url)))
        facts.append(("made by", f"{card.origin.by}{': ' + made if made else ''}"))
    return [(key, value) for key, value in facts if value]


def _figures(card: "Card") -> None:
    for figure in card.figures:
        out.fact("figure", _sentence(figure))


def _sentence(figure: "Figure") -> str:
    machine = figure.machine or "an unnamed machine"
    made = f"measured {figure.date} on {machine}: {figure.command}" if figure.by == "zoo" else "the paper's"
    note = f"; {figure.note}" if figure.note else ""
    return f"{figure.metric} {figure.value:g} on {figure.dataset} {figure.split} ({made}{note})"
