"""The `zoo` command: its groups, and the one place where an error becomes an exit code."""

import importlib
import sys
from typing import Annotated

import typer

from zoo.cli import out
from zoo.errors import ZooError

__all__ = ["app", "commands", "main"]

# files beside this one that register commands on `app` when imported, in the order of the help page
GROUPS: tuple[str, ...] = ("models", "predict", "reid", "retrieve", "ground", "filter", "weights", "hub")
GROUPS += ("train", "teach", "export", "bench", "serve", "doctor")

app = typer.Typer(
    name="zoo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]zoo list[/], then [bold]zoo predict NAME picture.jpg[/].",
)


def _version(wanted: bool) -> None:
    if wanted:
        import zoo

        out.line(f"zoo {zoo.__version__}")
        raise typer.Exit


@app.callback()
def zoo_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrained vision networks: list them, run them, train them."""


def commands() -> typer.Typer:
    """The application with every group's commands."""
    for group in GROUPS:
        importlib.import_module(f"zoo.cli.{group}")
    return app


def main() -> None:
    """Run the command line and exit: 0, or the error's own code, 70 for a fault of ours, 130 after Ctrl-C."""
    try:
        try:
            commands()()
        finally:
            out.flush()
    except ZooError as error:
        if out.debug:
            raise
        out.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # between commands; within one, typer exits with 130 by itself
        sys.exit(130)
    except Exception as error:
        if out.debug:
            raise
        out.internal_error(error)
        sys.exit(70)
