"""How fast networks are: bench."""

from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Compile, Debug, Device, Dtype, Engine, Json, Quiet

if TYPE_CHECKING:
    from zoo.bench.bench import Timing

PANEL = "Use elsewhere"


@app.command(rich_help_panel=PANEL)
def bench(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Models of ours or of timm.", show_default=False)],
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
    device: Device = "auto",
    dtype: Dtype = "float32",
    compile: Compile = False,
    engine: Engine = None,
    debug: Debug = False,
) -> None:
    """Time networks side by side, in turns.

    Weights are random; ours run as zoo predict runs them. Times are medians, with the quarters of the runs beside them.
    The last column is the speed over the first network's, in the same round.

    [bold]Examples[/]

    zoo bench dilateformer_t swin_tiny_patch4_window7_224
    zoo bench reste_resnet18_cifar resnet18 --size 32 -b 1 -b 32
    zoo bench pslt_tiny --compile --dtype bfloat16 --json
    """
    from zoo.bench.bench import bench as measure
    from zoo.bench.bench import contenders
    from zoo.bench.machine import machine

    networks = contenders(names, device=device, dtype=dtype, side=side, engine=engine, compile=compile)
    about = machine(networks[0].device)
    sizes = batch_sizes or [1, 8]
    with out.progress("bench", len(names) * len(sizes) * rounds) as step:
        timings = list(measure(networks, sizes, rounds=rounds, step=step))
    if json:
        out.data({"machine": about, "rounds": rounds, "dtype": dtype, "timings": [t.to_dict() for t in timings]})
        return
    columns = ("model", "engine", "params", "pixels", "batch", "ms", "quarters", "pictures/s", "memory", "speed")
    spare = ("params", "pixels", "engine", "quarters")
    has_memory = any(t.memory for t in timings)
    shown = [name for name in columns if name != "memory" or has_memory]
    rows = [[cell for name, cell in zip(columns, _cells(t), strict=True) if name in shown] for t in timings]
    out.table(shown, rows, right=[name for name in shown if name not in ("model", "engine")], spare=spare)
    out.say(f"{about}; {dtype}, {rounds} rounds")


def _cells(timing: "Timing") -> tuple[str, ...]:
    _, height, width = timing.size
    return (
        timing.name,
        timing.engine,
        f"{timing.params / 1e6:.1f} M" if timing.params >= 1e6 else f"{timing.params / 1e3:.0f} k",
        f"{width}x{height}",
        str(timing.batch_size),
        f"{timing.milliseconds:.2f}",
        f"{timing.spread[0]:.2f} to {timing.spread[1]:.2f}",
        f"{timing.rate:,.0f}" if timing.rate >= 100 else f"{timing.rate:.1f}",
        out.size(timing.memory),
        f"{timing.speedup:.2f}x",
    )
