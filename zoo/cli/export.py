"""Networks for other runtimes: export."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Checkpoint, Debug, Endpoint, Json, Name, Quiet

PANEL = "Use elsewhere"
REDUCED = "Narrower numbers"


@app.command(rich_help_panel=PANEL)
def export(
    name: Name,
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: .onnx, .pt2, or .xml with .bin.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="onnx, torch-export or openvino.")] = "onnx",
    task: Annotated[str | None, typer.Option(help="classify, embed, video or text.", show_default="the card's")] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width open, where the network does.")
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="float32; int8 (onnx); bfloat16 (torch-export).", rich_help_panel=REDUCED),
    ] = "float32",
    data_set: Annotated[
        str | None,
        typer.Option(metavar="SET", help="What calibrates and measures a reduced file.", rich_help_panel=REDUCED),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that holds it.", rich_help_panel=REDUCED)
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, metavar="POINTS", help="Top-1 it may lose.", rich_help_panel=REDUCED)
    ] = 1.0,
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
    Narrower numbers are kept if they lose little on the test part of a set.
    Binary networks are written as their float simulation.

    [bold]Examples[/]

    zoo export reste_resnet20_cifar --out net.onnx
    zoo export reste_resnet20_cifar --format torch-export --out net.pt2
    zoo export reste_resnet20_cifar --task embed --dynamic-size --out features.onnx
    zoo export reste_resnet20_cifar --dtype int8 --data-set cifar10 --data DIR --out net.int8.onnx
    zoo export reste_resnet20_cifar --checkpoint mine.safetensors --out net.onnx
    zoo export sgiel_pico --modality infrared --out infrared.onnx
    zoo export tmvm_tiny --task text --out sentences.onnx
    """
    from zoo.export.export import export as export_file

    done = export_file(
        name,
        to,
        format=format,
        task=task,
        dtype=dtype,
        data=data_set,
        data_root=data,
        max_drop=max_drop,
        dynamic_size=dynamic_size,
        checkpoint_path=checkpoint,
        modality=modality,
    )
    if json:
        out.data(done.to_dict())
        return
    out.line(str(done.path))
    if done.accuracy:
        cost = done.accuracy
        out.say(
            f"{out.size(done.bytes)}; top-1 on {cost.dataset} {cost.reduced:.2f}%, in float32 {cost.float32:.2f}%; "
            f"the same class on {cost.agreement:.2f}% of {cost.count:,} pictures"
        )
        return
    batches = ", ".join(map(str, done.batch_sizes))
    out.say(
        f"{out.size(done.bytes)}; on batches of {batches} it differs from the network by {done.largest_difference:.1g}"
    )
