"""Networks for other runtimes: export."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Checkpoint, Debug, Endpoint, Json, Name, Quiet

PANEL = "Use elsewhere"


@app.command(rich_help_panel=PANEL)
def export(
    name: Name,
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write, .onnx or .pt2.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="onnx or torch-export.")] = "onnx",
    checkpoint: Checkpoint = None,
    modality: Annotated[
        str | None, typer.Option(metavar="NAME", help="visible or infrared, of networks that take both.")
    ] = None,
    endpoint: Endpoint = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a network as one file for another runtime; prints where it is.

    Preprocessing, labels and licence lie in the file's metadata.
    It is kept once it has given the network's own outputs; exit code 4 otherwise.
    Binary networks are written as their float simulation.

    [bold]Examples[/]

    zoo export reste_resnet20_cifar --out net.onnx
    zoo export reste_resnet20_cifar --format torch-export --out net.pt2
    zoo export reste_resnet20_cifar --checkpoint mine.safetensors --out net.onnx
    zoo export sgiel_pico --modality infrared --out infrared.onnx
    """
    from zoo.export.export import export as export_file

    done = export_file(name, to, format=format, checkpoint_path=checkpoint, modality=modality)
    if json:
        out.data(done.to_dict())
        return
    out.line(str(done.path))
    batches = ", ".join(map(str, done.batch_sizes))
    out.say(
        f"{out.size(done.bytes)}; on batches of {batches} it differs from the network by {done.largest_difference:.1g}"
    )
