"""How fast networks are: bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import SPEED, Debug, Json, Quiet, model_names
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.bench.bench import Timing

PANEL = "Use elsewhere"
AGAIN = "May be given again."
WORDS = ("model", "engine", "device", "dtype")


@app.command(rich_help_panel=PANEL)
def bench(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME", help="Models of ours or of timm.", autocompletion=model_names, show_default=False
        ),
    ],
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option("--batch-size", "-b", min=1, help="Pictures a call; may be given again.", show_default="1 and 8"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each network.")] = 10,
    side: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Height and width of the pictures.", show_default="each network's own"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="DEVICE", help=AGAIN, show_default="auto", rich_help_panel=SPEED),
    ] = None,
    dtypes: Annotated[
        list[str] | None,
        typer.Option("--dtype", metavar="TYPE", help=AGAIN, show_default="float32", rich_help_panel=SPEED),
    ] = None,
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="auto, float, packed, compiled, onnxruntime or openvino; may be given again.",
            show_default="auto",
            rich_help_panel=SPEED,
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Each network also through torch.compile.", rich_help_panel=SPEED)
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw pictures a second over batch sizes, .png.", rich_help_panel="Output"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Time networks side by side, in turns.

    Weights are random; ours run as zoo predict runs them. Times are medians, with the quarters of the runs beside them.
    The last column is the speed over the first network's, in the same round.

    [bold]Examples[/]

    zoo bench dilateformer_t swin_tiny_patch4_window7_224
    zoo bench reste_resnet18_cifar resnet18 --size 32 -b 1 -b 32
    zoo bench reste_resnet20_cifar --engine packed --engine float --engine onnxruntime --plot speed.png
    zoo bench pslt_tiny --compile --dtype float32 --dtype bfloat16 --json
    """
    from zoo.bench.bench import bench as measure
    from zoo.bench.bench import contenders
    from zoo.bench.machine import machine

    chosen = [*(engines or ["auto"]), *(["compiled"] if compile and "compiled" not in (engines or []) else [])]
    networks = contenders(names, devices=devices or ["auto"], dtypes=dtypes or ["float32"], engines=chosen, side=side)
    about = machine(networks[0].device)
    sizes = batch_sizes or [1, 8]
    with out.progress("bench", len(networks) * len(sizes) * rounds) as step:
        timings = list(measure(networks, sizes, rounds=rounds, step=step))
    if plot:
        _plot(timings, plot)
    if json:
        out.data({"machine": about, "rounds": rounds, "timings": [t.to_dict() for t in timings]})
        return
    columns = (
        "model",
        "engine",
        "device",
        "dtype",
        "params",
        "pixels",
        "batch",
        "ms",
        "quarters",
        "pictures/s",
        "memory",
        "speed",
    )
    spare = ("params", "pixels", "engine", "quarters")
    same = {
        "memory": not any(t.memory for t in timings),
        "device": len({t.device for t in timings}) == 1,
        "dtype": len({t.dtype for t in timings}) == 1,
    }
    shown = [name for name in columns if not same.get(name)]
    rows = [[cell for name, cell in zip(columns, _cells(t), strict=True) if name in shown] for t in timings]
    out.table(shown, rows, right=[name for name in shown if name not in WORDS], spare=spare)
    kinds = ", ".join(dict.fromkeys(t.dtype for t in timings))
    out.say(f"{about}; {kinds}, {rounds} rounds")


def _plot(timings: "list[Timing]", path: Path) -> None:
    """Pictures a second over batch sizes, a panel a contender."""
    from zoo.viz.curves import curves

    series: dict[str, list[tuple[float, float]]] = {}
    vary = {which for which in ("device", "dtype") if len({getattr(t, which) for t in timings}) > 1}
    for t in sorted(timings, key=lambda t: t.batch_size):
        words = [t.name, t.engine.split(" ")[0], *(getattr(t, which) for which in ("device", "dtype") if which in vary)]
        series.setdefault(" ".join(words), []).append((t.batch_size, t.rate))
    try:
        curves(series, across="batch").save(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written: {error}", hint="a .png in a folder that is there") from None


def _cells(timing: "Timing") -> tuple[str, ...]:
    _, height, width = timing.size
    return (
        timing.name,
        timing.engine,
        timing.device,
        timing.dtype,
        f"{timing.params / 1e6:.1f} M" if timing.params >= 1e6 else f"{timing.params / 1e3:.0f} k",
        f"{width}x{height}",
        str(timing.batch_size),
        f"{timing.milliseconds:.2f}",
        f"{timing.spread[0]:.2f} to {timing.spread[1]:.2f}",
        f"{timing.rate:,.0f}" if timing.rate >= 100 else f"{timing.rate:.1f}",
        out.size(timing.memory),
        f"{timing.speedup:.2f}x",
    )
