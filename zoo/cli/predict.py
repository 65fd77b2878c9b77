"""Running networks on pictures: predict, embed."""

import glob
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import (
    BatchSize,
    Checkpoint,
    Compile,
    Csv,
    Debug,
    Device,
    Dtype,
    Endpoint,
    Engine,
    Json,
    Jsonl,
    Name,
    Quiet,
    Workers,
)
from zoo.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from zoo.registry.card import Card
    from zoo.results.classification import Classification

PANEL = "Use a model"
EXPLAINED = "explained"
INPUTS = "Files, folders, globs, http(s) addresses, or - for a list on standard input."


@app.command(rich_help_panel=PANEL)
def predict(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Model; left out, the best classifier that comes with zoo.", show_default=False
        ),
    ],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=INPUTS, show_default=False)] = None,
    topk: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 5,
    checkpoint: Checkpoint = None,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a picture with its labels here.", rich_help_panel="Output"),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help=f"Draw where in the picture the best class was found; into {EXPLAINED}/ unless --draw says where.",
            rich_help_panel="Output",
        ),
    ] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    compile: Compile = False,
    engine: Engine = None,
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Classify pictures.

    Bad files do not stop the others; they are listed at the end, and the exit code is 1.

    [bold]Examples[/]

    zoo predict reste_resnet20_cifar cat.png
    zoo predict reste_resnet20_cifar photos/ --jsonl > labels.jsonl
    zoo predict reste_resnet20_cifar '*.png' --topk 3 --draw drawn/
    zoo predict cat.png --explain
    find . -name '*.png' | zoo predict reste_resnet20_cifar - --csv
    """
    form = out.form(json, jsonl, csv)
    name, sources = _name_and_inputs(name, inputs or [])

    from zoo.data.images import expand
    from zoo.tasks.draw import Drawings
    from zoo.tasks.pipeline import pipeline

    pipe = pipeline(
        name,
        task="classify",
        device=device,
        checkpoint_path=checkpoint,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        compile=compile,
        topk=topk,
        explain=explain,
        engine=engine,
    )
    if engine == "packed" and not pipe.engine.startswith("packed"):
        out.say(f"engine {pipe.engine}")
    if explain and draw is None:
        draw = Path(EXPLAINED)
        out.say(f"drawings in {draw}/")
    drawings = Drawings(draw) if draw else None
    failures, seen = out.Failures(), 0
    see = not out.is_terminal(sys.stdout)
    with out.Rows(form, _show, _flat) as rows, out.progress("predict", _total(sources, see), wanted=see) as step:
        for result in pipe(expand(sources)):
            seen += 1
            fault = result.error or (drawings.add(result) if drawings else None)
            if fault:
                failures.add(fault)
            if form != "human" or not result.error:
                rows(result)
            step()
    raise typer.Exit(failures.report(seen))


@app.command(rich_help_panel=PANEL)
def embed(
    name: Name,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help=INPUTS, show_default=False)],
    to: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Where to: .parquet, .csv, .jsonl, or .npy with the names beside it."
        ),
    ],
    checkpoint: Checkpoint = None,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    compile: Compile = False,
    engine: Engine = None,
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Write the features of pictures to a file.

    For a classifier these are what its last layer sees. Bad files are left out of the file and listed at the end.

    [bold]Examples[/]

    zoo embed reste_resnet20_cifar photos/ --out features.parquet
    zoo embed reste_resnet20_cifar 'photos/**/*.jpg' --out features.npy
    """
    from zoo.tasks.feature_file import feature_file

    with feature_file(to) as write:  # first of all: a file that cannot be written should not cost a minute
        from zoo.data.images import expand
        from zoo.tasks.pipeline import pipeline

        pipe = pipeline(
            name,
            task="embed",
            device=device,
            checkpoint_path=checkpoint,
            batch_size=batch_size,
            workers=workers,
            dtype=dtype,
            compile=compile,
            engine=engine,
        )
        failures, seen = out.Failures(), 0
        with out.progress("embed", _total(inputs, True)) as step:
            for result in pipe(expand(inputs)):
                seen += 1
                if result.error:
                    failures.add(result.error)
                else:
                    write(result)
                step()
    code = failures.report(seen)
    written = seen - failures.count
    out.say(f"{written} rows in {to}" if written else f"{to} was not written")
    raise typer.Exit(code)


def _name_and_inputs(first: str, inputs: list[str]) -> tuple[str, list[str]]:
    """The model and the inputs; a first word that is an input leaves the model to us."""
    from zoo.data.images import SUFFIXES
    from zoo.registry.names import resolve

    try:
        if not first.endswith(".zoo"):
            resolve(first)
    except UnknownName as error:
        if _is_input(first):
            return _default(), [first, *inputs]
        hint = "check the path" if Path(first).suffix.lower() in SUFFIXES else error.hint
        raise UnknownName(f"{first!r} is no model, and no file, folder, glob or address either", hint=hint) from None
    if not inputs:
        there = f"; the {'folder' if Path(first).is_dir() else 'file'} is ./{first}" if Path(first).exists() else ""
        raise UsageError(f"no input: {first} is the model", hint=f"zoo predict {first} picture.jpg{there}")
    return first, inputs


def _is_input(text: str) -> bool:
    from zoo.data.urls import is_url

    return text == "-" or is_url(text) or Path(text).exists() or glob.has_magic(text)


def _default() -> str:
    from zoo.registry.names import list_names, load_card

    cards = [load_card(name) for name in list_names(task="classify")]
    bundled = [card for card in cards if card.default and card.weights.status == "bundled"]
    card = max(bundled, key=_breadth, default=None)
    if card is None:
        raise UsageError(
            "no model was named, and no classifier comes with this installation",
            hint="zoo predict NAME INPUT...; see zoo list",
        )
    out.say(f"model: {card.name}")
    return card.name


def _breadth(card: "Card") -> tuple[int, float]:
    """Classes, then the main figure."""
    figure = card.figure()
    return card.builder_args.get("num_classes", 0), figure.value if figure else 0.0


def _total(sources: list[str], wanted: bool) -> int | None:
    """How many pictures there are; unknown with standard input, uncounted where no progress is shown."""
    from zoo.data.images import expand

    if "-" in sources or not wanted or not out.is_terminal(sys.stderr):
        return None
    return sum(1 for _ in expand(sources))


def _show(result: "Classification") -> None:
    """One result for people: drawn on a terminal, plain in a pipe."""
    if out.is_terminal(sys.stdout):
        out.rich(result)
        return
    told = "".join(f"  ({note})" for note in (result.note, result.told) if note)
    out.line(result.source + told)
    for label, score in result:
        out.line(f"  {100 * score:5.1f}%  {label}")


def _flat(result: "Classification") -> list[Mapping[str, Any]]:
    """CSV rows: one a rank, or one that says the error."""
    if result.error:
        return [
            {"source": result.source, "rank": "", "label": "", "index": "", "score": "", "error": result.error.message}
        ]
    return [
        {"source": result.source, "rank": rank, "label": label, "index": index, "score": f"{score:.6f}", "error": ""}
        for rank, ((label, score), index) in enumerate(zip(result, result.indices.tolist(), strict=True), 1)
    ]
