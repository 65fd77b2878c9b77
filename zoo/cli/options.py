"""Options that more than one command takes, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from zoo import settings
from zoo.cli import out

__all__ = [
    "BatchSize",
    "Checkpoint",
    "Compile",
    "Csv",
    "Debug",
    "Device",
    "Dtype",
    "Endpoint",
    "Engine",
    "Json",
    "Jsonl",
    "Name",
    "Quiet",
    "Workers",
    "be_quiet",
    "model_names",
    "sentences_in",
]

OUTPUT, SPEED = "Output", "Speed"


def model_names(incomplete: str) -> list[str]:
    """What a shell may complete to a model's name."""
    from zoo.registry.names import list_names

    return [name for name in list_names() if name.startswith(incomplete)]


def _debug(value: bool) -> bool:
    out.debug = out.debug or value
    return value


def be_quiet(value: bool) -> bool:
    """What --quiet does."""
    out.quiet = value
    return value


def _endpoint(value: str | None) -> str | None:
    if value is not None:
        settings.set_hub_endpoint(value)
    return value


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Model: <arch>.<tag>, or a bare architecture.",
        autocompletion=model_names,
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="A .safetensors file in place of the published weights."),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=SPEED)]
Dtype = Annotated[str, typer.Option(metavar="TYPE", help="float32, float16 or bfloat16.", rich_help_panel=SPEED)]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Inputs the network takes at once.",
        show_default="256 on a GPU, 64 elsewhere",
        rich_help_panel=SPEED,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode; 0 for none.",
        show_default="some, when there is much to do",
        rich_help_panel=SPEED,
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Use torch.compile: a slow start, then faster.", rich_help_panel=SPEED)
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINE",
        help="What runs 1-bit layers: auto, float or packed.",
        show_default="$ZOO_ENGINE, else auto",
        rich_help_panel=SPEED,
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL", callback=_endpoint, help="Address of the Hub.", show_default="$HF_ENDPOINT, else the public one"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="Print one JSON object a line.", rich_help_panel=OUTPUT)]
Csv = Annotated[bool, typer.Option("--csv", help="Print comma-separated rows.", rich_help_panel=OUTPUT)]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=be_quiet, help="Say nothing but data and errors.", rich_help_panel=OUTPUT),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_debug, is_eager=True, help="Show where an error comes from.", rich_help_panel=OUTPUT
    ),
]


def sentences_in(file: Path) -> list[str]:
    """The sentences that an option's file holds, one a line.

    Raises:
        UsageError: It cannot be read.
    """
    from zoo.data.texts import read_lines
    from zoo.errors import UsageError

    return read_lines(file, "a text file, a sentence a line", UsageError)
