"""Running networks on pictures: predict, embed."""

import glob
import os
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
    model_names,
)
from zoo.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from zoo.registry.card import Card
    from zoo.results.classification import Classification, Embedding
    from zoo.tasks.pipeline import Pipeline

PANEL = "Use a model"
EXPLAINED = "explained"
INPUTS = (
    "Files, folders, globs, http(s) or store addresses (s3://...), lists (.parquet), shards (.tar), or - for a list on "
    "standard input."
)
PartSize = Annotated[
    int, typer.Option(min=1, help="Rows of a part, where --out is a folder.", rich_help_panel="Output")
]


@app.command(rich_help_panel=PANEL)
def predict(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Model; left out, the best classifier that comes with zoo.",
            autocompletion=model_names,
            show_default=False,
        ),
    ] = None,
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
    to: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write Parquet parts into this folder or store instead; the same command goes on where it stopped.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    part_size: PartSize = 2048,
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
    torchrun --nproc-per-node 4 -m zoo predict reste_resnet20_cifar list.parquet --out s3://bucket/labels/
    """
    form = out.form(json, jsonl, csv)
    name, sources = _name_and_inputs(name, inputs or [])
    if to and (form != "human" or draw or explain):
        raise UsageError("--out takes Parquet alone", hint="leave out --json, --jsonl, --csv, --draw and --explain")

    from zoo.data.inputs import addresses, opened
    from zoo.tasks.draw import Drawings
    from zoo.tasks.pipeline import pipeline

    pipe = pipeline(
        name,
        task="classify",
        device=device,
        checkpoint_path=checkpoint,
        batch_size=batch_size,
        workers=_shared(workers) if to else workers,
        dtype=dtype,
        compile=compile,
        topk=topk,
        explain=explain,
        engine=engine,
    )
    if engine == "packed" and not pipe.engine.startswith("packed"):
        out.say(f"engine {pipe.engine}")
    if to:
        raise typer.Exit(_parts(pipe, to, checkpoint, sources, part_size))
    if explain and draw is None:
        draw = Path(EXPLAINED)
        out.say(f"drawings in {draw}/")
    drawings = Drawings(draw) if draw else None
    failures, seen = out.Failures(), 0
    see = not out.is_terminal(sys.stdout)
    with out.Rows(form, _show, _flat) as rows, out.progress("predict", _total(sources, see), wanted=see) as step:
        for result in pipe(opened(addresses(sources))):
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
        str,
        typer.Option(
            "--out",
            metavar="FILE|DIR",
            help="Where to: .parquet, .csv, .jsonl, or .npy with the names beside it; or a folder or store, for parts "
            "in Parquet: there the same command goes on where it stopped.",
        ),
    ],
    part_size: PartSize = 2048,
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
    zoo embed reste_resnet20_cifar s3://bucket/photos/ --out s3://bucket/features/
    torchrun --nproc-per-node 4 --max-restarts 9 -m zoo embed reste_resnet20_cifar 'shards/*.tar' --out features/
    """
    from zoo.data.stores import is_folder
    from zoo.tasks.feature_file import feature_file

    def pipe(workers: int | None) -> "Pipeline[Any]":
        from zoo.tasks.pipeline import pipeline

        return pipeline(
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

    if is_folder(to):
        raise typer.Exit(_parts(pipe(_shared(workers)), to, checkpoint, inputs, part_size))
    with feature_file(Path(to)) as write:  # first of all: a file that cannot be written should not cost a minute
        from zoo.data.inputs import addresses, opened

        answers = pipe(workers)(opened(addresses(inputs)))
        failures, seen = out.Failures(), 0
        with out.progress("embed", _total(inputs, True)) as step:
            for result in answers:
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


def _shared(workers: int | None) -> int | None:
    """Decoding processes of one of several processes of this machine: they have its cores together."""
    from zoo import settings
    from zoo.tasks.decode import cores

    here = settings.processes_here()
    return min(8, cores() // here // 2) if workers is None and here > 1 else workers


def _parts(pipe: "Pipeline[Any]", to: str, checkpoint: Path | None, inputs: list[str], part_size: int) -> int:
    """Answer into a folder of parts; the exit code."""
    from zoo.tasks import bulk

    workers = bulk.Group() if bulk.Group.is_here() else bulk.Alone()
    job = bulk.open_job(to, bulk.describe(pipe, checkpoint, inputs, part_size), workers)
    failures, seen = out.Failures(), 0

    with out.progress(type(pipe.task).__name__.lower()) as step:

        def one(result: "Classification | Embedding") -> None:
            nonlocal seen
            seen += 1
            if result.error:
                failures.add(result.error)
            step()

        written, found = bulk.run(job, pipe, workers, one)
    code = failures.report(seen)
    before = f", {found} were there" if found else ""
    out.say(f"{seen} rows in {written} of {job.parts} parts of {to}{before}")
    return 0 if isinstance(workers, bulk.Group) else code  # torchrun takes another code for a crash and starts again


def _name_and_inputs(first: str | None, inputs: list[str]) -> tuple[str, list[str]]:
    """The model and the inputs; a first word that is an input leaves the model to us."""
    if first is None:
        raise UsageError("no input", hint="zoo predict picture.jpg; zoo predict --help has more examples")
    from zoo.data.images import SUFFIXES
    from zoo.registry.names import resolve

    try:
        if not first.endswith(".zoo"):
            resolve(first)
    except UnknownName as error:
        if _is_input(first):
            if late := next((text for text in inputs if _is_model(text)), None):
                raise UsageError(f"{late} is a model and comes first", hint=f"zoo predict {late} {first}") from None
            return _default(), [first, *inputs]
        is_path = Path(first).suffix.lower() in SUFFIXES or os.sep in first
        hint = "check the path" if is_path else error.hint
        raise UnknownName(f"{first!r} is no model, and no file, folder, glob or address either", hint=hint) from None
    if not inputs:
        there = f"; the {'folder' if Path(first).is_dir() else 'file'} is ./{first}" if Path(first).exists() else ""
        raise UsageError(f"no input: {first} is the model", hint=f"zoo predict {first} picture.jpg{there}")
    return first, inputs


def _is_input(text: str) -> bool:
    from zoo.data.stores import is_store
    from zoo.data.urls import is_url

    return text == "-" or is_url(text) or is_store(text) or Path(text).exists() or glob.has_magic(text)


def _is_model(text: str) -> bool:
    from zoo.registry.names import resolve

    try:
        return bool(resolve(text)) and not Path(text).exists()
    except UnknownName:
        return False


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
    """How many pictures there are; unknown with standard input and shards, uncounted where no progress is shown."""
    from zoo.data.inputs import addresses, is_shard

    if "-" in sources or not wanted or not out.is_terminal(sys.stderr):
        return None
    count = 0
    for item in addresses(sources):
        if is_shard(item):
            return None
        count += 1
    return count


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
