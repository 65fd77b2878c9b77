"""Networks for people and programs elsewhere: serve, demo."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import BatchSize, Checkpoint, Compile, Debug, Device, Dtype, Endpoint, Engine, Name, Quiet
from zoo.errors import InputError, UsageError
from zoo.extras import need

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zoo.web.api import ServeLimits

PANEL = "Use elsewhere"
LIMITS = "Limits"

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 for other machines.")]


@app.command(rich_help_panel=PANEL)
def serve(
    name: Name,
    task: Annotated[str | None, typer.Option(help="classify or embed.", show_default="the card's")] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    topk: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 5,
    max_bytes: Annotated[
        int, typer.Option(min=1024, help="Of a request's body; 413 beyond.", rich_help_panel=LIMITS)
    ] = 16 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Of a picture; larger ones are refused undecoded.", rich_help_panel=LIMITS)
    ] = 25_000_000,
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures inside at once; 429 beyond.", rich_help_panel=LIMITS)
    ] = 256,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a body and for an answer.", rich_help_panel=LIMITS)
    ] = 30.0,
    checkpoint: Checkpoint = None,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    compile: Compile = False,
    engine: Engine = None,
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Serve a network over HTTP, in batches.

    POST pictures to /v1/classify or /v1/embed; /docs describes all, /health and /metrics are for machines.
    Nothing in a request is fetched. There is no login: leave that to the proxy before it.

    [bold]Examples[/]

    zoo serve reste_resnet20_cifar --port 8000
    curl -F images=@cat.png http://127.0.0.1:8000/v1/classify
    """
    need("serve", "zoo serve")

    from zoo import settings
    from zoo.tasks.pipeline import Pipeline, pipeline
    from zoo.web.api import ServeLimits, build_app

    settings.set_max_pixels(max_pixels)
    pipe = pipeline(
        name,
        task=task,
        device=device,
        checkpoint_path=checkpoint,
        batch_size=batch_size,
        dtype=dtype,
        compile=compile,
        topk=topk,
        engine=engine,
    )
    if not isinstance(pipe, Pipeline):
        raise UsageError(f"{name} cannot be served", hint="zoo list --task classify")
    limits = ServeLimits(max_bytes=max_bytes, max_pictures=min(64, queue), queue=queue, seconds=timeout)
    _listen(build_app(pipe, limits), host, port, limits, lambda address: out.say(f"{pipe} at {address}"))


@app.command(rich_help_panel=PANEL)
def demo(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    max_bytes: Annotated[
        int, typer.Option(min=1024, help="Of a file that is given; 413 beyond.", rich_help_panel=LIMITS)
    ] = 16 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Of a picture; larger ones are refused undecoded.", rich_help_panel=LIMITS)
    ] = 25_000_000,
    queue: Annotated[
        int, typer.Option(min=1, help="Questions inside at once; 429 beyond.", rich_help_panel=LIMITS)
    ] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer; 503 beyond.", rich_help_panel=LIMITS)
    ] = 120.0,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Quiet = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Show the bundled networks on a web page, a tab a task.

    Nothing is fetched, by the page or for it, and what is given is forgotten once it is answered. Other machines see it
    with --host 0.0.0.0 alone. There is no login: leave that to the proxy before it.

    [bold]Examples[/]

    zoo demo --open
    zoo demo --port 8080 --quiet
    """
    need("demo", "zoo demo")

    import tempfile
    import webbrowser

    from zoo import settings
    from zoo.tasks.device import pick_device
    from zoo.web.api import ServeLimits
    from zoo.web.demo import build_demo

    settings.set_max_pixels(max_pixels)
    pick_device(device)  # says now what is wrong with it
    limits = ServeLimits(max_bytes=max_bytes, max_pictures=1, queue=queue, seconds=timeout)

    def ready(address: str) -> None:
        out.say(f"{address} shows the demo; Ctrl-C ends it")
        if open_:
            webbrowser.open(address)

    with tempfile.TemporaryDirectory(prefix="zoo-demo-") as folder:
        _listen(build_demo(Path(folder), limits, device), host, port, limits, ready)


def _listen(what: "FastAPI", host: str, port: int, limits: "ServeLimits", ready: Callable[[str], None]) -> None:
    """Serve until told to stop.

    Raises:
        InputError: The port is taken, or not ours to take.
    """
    from zoo.web.api import serve as listen

    try:
        listen(what, host, port, limits, ready)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(f"{host}:{port} cannot be listened on: {reason}", hint="another --port or --host") from None
