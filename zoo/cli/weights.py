"""Weights on this machine: pull, cache, convert."""

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Debug, Endpoint, Json, Quiet, model_names
from zoo.errors import UsageError

PANEL = "Weights"

cache = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Look after the weights on this machine."
)
app.add_typer(cache, name="cache", rich_help_panel=PANEL)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Only these models.", autocompletion=model_names, show_default=False),
]


@app.command(rich_help_panel=PANEL)
def pull(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Models.", autocompletion=model_names, show_default=False)
    ],
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit on the Hub.")] = None,
    endpoint: Endpoint = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch weights ahead of their use, and check them; prints where they are.

    [bold]Examples[/]

    zoo pull reste_resnet20_cifar
    """
    from zoo.hub.fetch import weights_path
    from zoo.registry.names import resolve

    for card in [resolve(name) for name in names]:
        out.line(str(weights_path(card, revision=revision)))


@cache.command("list")
def cache_list(json: Json = False, debug: Debug = False) -> None:
    """List the weights on this machine.

    [bold]Examples[/]

    zoo cache list
    """
    from zoo.hub.cache import cached

    files = cached()
    if json:
        out.data([file.to_dict() for file in files])
    elif files:
        rows = [
            (file.name, out.size(file.bytes), file.place, (file.revision or "-")[:12], str(file.path)) for file in files
        ]
        out.table(("name", "size", "place", "revision", "path"), rows, right=("size",), spare=("path", "revision"))
    else:
        out.say("no weights on this machine yet; zoo pull NAME fetches some")


@cache.command("verify")
def cache_verify(names: Names = None, json: Json = False, debug: Debug = False) -> None:
    """Read every file and compare its sha256 with its card; exit code 4 when one is corrupt.

    [bold]Examples[/]

    zoo cache verify
    zoo cache verify reste_resnet20_cifar --json
    """
    from zoo.hub.cache import verify

    checked = verify(_exact(names) if names else None)
    if json:
        out.data([{**file.to_dict(), "state": state} for file, state in checked])
    elif checked:
        rows = [(file.name, out.size(file.bytes), file.place, state) for file, state in checked]
        out.table(("name", "size", "place", "state"), rows, right=("size",))
    else:
        out.say("nothing to check")
    corrupt = sorted({file.name for file, state in checked if state == "corrupt"})
    if corrupt:
        out.say(f"corrupt: {', '.join(corrupt)}; zoo cache prune {' '.join(corrupt)}, then zoo pull them again")
        raise typer.Exit(4)


@cache.command("prune")
def cache_prune(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All fetched weights.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove fetched weights; those that came with the package stay.

    [bold]Examples[/]

    zoo cache prune pslt_base
    zoo cache prune --all
    """
    from zoo.hub.cache import cached, prune

    if bool(names) == everything:
        raise UsageError("name the models to remove, or say --all", hint="zoo cache list shows what is there")
    wanted = {file.name for file in cached() if file.place == "cache"} if everything else set(_exact(names or []))
    freed = prune(sorted(wanted))
    out.say(f"{out.size(freed)} freed")


@app.command(rich_help_panel=PANEL)
def convert(
    architecture: Annotated[
        str, typer.Argument(metavar="ARCH", help="Network that the file is for.", show_default=False)
    ],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The authors' checkpoint.", show_default=False)],
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .safetensors file to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A builder argument that the tensors do not show."),
    ] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Store 1-bit weights as bits.")] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="input and output of the authors' code, to be given again."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn the authors' checkpoint into ours, with a report of every key.

    The pickle is read without running code in it, by a process with limits.
    Nothing is written unless every tensor found its place and the file gives the outputs it should.

    [bold]Examples[/]

    zoo convert reste_resnet18_cifar authors.pth --out mine.safetensors
    zoo convert reste_resnet20_cifar w1a32.pth --out mine.safetensors --set act_bits=32
    zoo convert reste_resnet20_cifar authors.pth --out mine.safetensors --check authors_outputs.npz
    """
    from zoo.convert import convert as convert_file

    report = convert_file(architecture, source, to, packed=packed, check=check, **dict(map(_setting, settings or [])))
    if json:
        out.data(report.to_dict())
        return
    for old, new, shape in report.renamed:
        out.line(f"renamed  {old} -> {new}  {_shape(shape)}")
    for key, shape in report.kept:
        out.line(f"kept     {key}  {_shape(shape)}")
    for key, what in report.dropped:
        out.line(f"dropped  {key}  {what}")
    if report.parity:
        out.say(f"its outputs differ by {report.parity['largest_difference']:.1g} from {report.parity['by']}")
    out.say(f"{report}; written to {to}")


def _exact(names: list[str]) -> list[str]:
    """Full names of checkpoints; what is no known name passes as it is, for files whose card is gone."""
    from zoo.errors import UnknownName
    from zoo.registry.names import resolve

    found = []
    for name in names:
        try:
            found.append(resolve(name).name)
        except UnknownName:
            found.append(name)
    return found


def _setting(text: str) -> tuple[str, Any]:
    """`key=value` with the value read as JSON where it is JSON, so that numbers and true are what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--set {text}: no KEY=VALUE", hint="--set act_bits=32")
    try:
        return key, json_format.loads(value)
    except ValueError:
        return key, value


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
