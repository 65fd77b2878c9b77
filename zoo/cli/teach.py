"""Teaching new classes to a model: teach."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Debug, Device, Json, Quiet
from zoo.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from zoo.results.lesson import TaskRow

PANEL = "Train and measure"
NEW = "A new model"


@app.command(rich_help_panel=PANEL)
def teach(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.zoo",
            help="The model; made if it is not there. With --out, also a taught checkpoint's name.",
            show_default=False,
        ),
    ],
    add: Annotated[
        Path | None,
        typer.Option("--add", metavar="FOLDER", help="Learn these classes: one folder of pictures each."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Print what it was taught, and stop.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last task away, exactly.")] = False,
    remember: Annotated[
        Path | None,
        typer.Option("--remember", metavar="FOLDER", help="Take pictures of known classes for later lessons."),
    ] = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Keep no pictures in the file: it can answer, not learn more.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="T", help="What to call the task.")] = None,
    val: Annotated[
        str, typer.Option(metavar="DIR|SHARE", help="Pictures to measure on, or the share of the new ones to hold out.")
    ] = "0.2",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the pictures.", show_default="the method's")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Show every class equally often, whatever its pictures.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write here, and leave the model as it is.")
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Frozen network below: a checkpoint, or timm:NAME.",
            show_default="lite0_extractor",
            rich_help_panel=NEW,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .safetensors file of its weights.", rich_help_panel=NEW),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="What learns: adapters, or distill.", show_default="adapters", rich_help_panel=NEW
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures kept, of all classes; also for --remember.", show_default="200", rich_help_panel=NEW
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=8, help="Side of the pictures in pixels.", show_default="the extractor's", rich_help_panel=NEW
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Teach a model new classes without losing the old ones.

    A killed run goes on with the same command; until it is done, the model's file is the old one.
    Pictures of diseases are patients': give a file away with --no-memory only. --remember gives pictures back to it.

    [bold]Examples[/]

    zoo teach skin.zoo --add first/ --size 128
    zoo teach skin.zoo --add rare/ --name rare --val test/
    zoo teach skin.zoo --report
    zoo teach skin.zoo --undo
    zoo teach acl_lite0.ham10000 --remember known/ --out mine.zoo
    zoo predict skin.zoo picture.jpg
    """
    wanted = [what for what in (add, remember, report, undo) if what]
    if len(wanted) > 1 or not (wanted or no_memory):
        raise UsageError(
            "say one of --add FOLDER, --remember FOLDER, --report, --undo, or --no-memory", hint="zoo teach --help"
        )
    path = _model_file(model)
    if to and to.suffix != ".zoo":
        raise UsageError(f"{to} is not called .zoo", hint=f"{to.with_suffix('.zoo')}")
    if report:
        show_taught(path, json=json)
        return
    if path.suffix != ".zoo" and (add or to is None):
        raise UsageError(
            f"{model} is a checkpoint and stays as it is", hint=f"zoo teach {model} --remember FOLDER --out mine.zoo"
        )
    if add is None:
        code = _changed(path, to or path, remember, memory, device, undo=undo, no_memory=no_memory)
        raise typer.Exit(code)

    from zoo.train import teach as teaching
    from zoo.train.learners import Settings

    given = {"extractor": extractor, "checkpoint": checkpoint, "method": method, "size": size, "memory": memory}
    chosen = {key: value for key, value in given.items() if value is not None}
    with out.live() as show:
        ready = teaching.prepare(
            path,
            add,
            name=name,
            start=teaching.Start(**chosen) if chosen else None,  # type: ignore[arg-type]  # typer checked each
            settings=Settings(epochs=epochs, is_balanced=balanced, seed=seed),
            val=_share_or_folder(val),
            device=device,
            report=show,
        )
        for key, value in ready.plan():
            out.say(f"  {key:10} {value}")
        lesson = teaching.teach(ready, to, keeps_memory=not no_memory)
    if json:
        out.data(lesson.to_dict())
    else:
        columns = ("task", "classes", "pictures", "before", "after")
        out.table(columns, [_row(row) for row in lesson.rows], right=("pictures", "before", "after"))
    out.say(f"{lesson.model} written, {lesson.seconds:.0f} s; zoo predict {lesson.model} PICTURE")
    failures = out.Failures()
    for fault in lesson.failed:
        failures.add(fault)
    raise typer.Exit(failures.report(len(ready.task.images) + len(lesson.failed)))


def _model_file(name: str) -> Path:
    """The file of a model, by its path or by a checkpoint's name."""
    from zoo.tasks.taught import taught_file

    try:
        path = taught_file(name)
    except UnknownName:
        raise UsageError(f"{name} is not called .zoo", hint=f"{Path(name).with_suffix('.zoo')}") from None
    if path is None:
        raise UsageError(
            f"{name} is no taught model", hint=f"zoo teach MODEL.zoo --add FOLDER --extractor {name} starts one on it"
        )
    return path


def _changed(
    path: Path, to: Path, remember: Path | None, memory: int | None, device: str, *, undo: bool, no_memory: bool
) -> int:
    """Write a model with more pictures, without its last task or without pictures; the exit code."""
    from zoo.tasks.taught import read_taught
    from zoo.train import teach as teaching

    taught, failures = read_taught(path), out.Failures()
    if remember:
        taught, failed = teaching.remember(taught, remember, memory, device=device)
        for fault in failed:
            failures.add(fault)
    if undo:
        gone = taught.facts.tasks[-1].name
        taught = taught.undone()
        out.say(f"{gone} is taken away")
    taught = taught.without_memory() if no_memory else taught
    taught.write(to) if to == path else taught.write_copy(to)
    kept = len(taught.pictures)
    out.say(f"{to}: {len(taught.facts.classes)} classes in {len(taught.facts.tasks)} tasks, {kept} pictures kept")
    return failures.report(kept + failures.count)


def show_taught(path: Path, *, json: bool) -> None:
    """What a taught model was taught, for people or as JSON."""
    from zoo.tasks.taught import described, read_taught

    taught = read_taught(path)
    facts = described(path, taught)
    if json:
        out.data(facts)
        return
    out.line(out.style(str(path), "bold") + f"  {facts['summary']}")
    out.line()
    for key in ("method", "extractor", "input", "parameters", "memory", "unknown", "size", "version"):
        out.fact(key, facts[key])
    out.line()
    count = len(facts["tasks"])
    columns = ("task", "classes", "pictures", *(f"after {j + 1}" for j in range(count)))
    rows = []
    for i, task in enumerate(facts["tasks"]):
        past = [facts["tasks"][j]["measured"] for j in range(count)]
        cells = [_share(past[j][i]) if j >= i and i < len(past[j]) else "" for j in range(count)]
        rows.append((task["name"], ", ".join(task["classes"]), str(sum(task["counts"])), *cells))
    out.table(columns, rows, right=columns[2:])
    out.say("per cent right when each task was taught; zoo eval MODEL.zoo DIR measures all of it on other pictures")


def _share_or_folder(val: str) -> Path | float:
    try:
        return float(val)
    except ValueError:
        return Path(val)


def _row(row: "TaskRow") -> tuple[str, ...]:
    return row.task, ", ".join(row.classes), str(row.pictures), _share(row.before), _share(row.after)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
