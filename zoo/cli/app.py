"""The `zoo` command: its groups, and the one place where an error becomes an exit code."""

import errno
import importlib
import sys
from typing import Annotated, NoReturn

import typer

from zoo.cli import out
from zoo.errors import InputError, ZooError

__all__ = ["app", "commands", "main"]

# files beside this one that register commands on `app` when imported, in the order of the help page
GROUPS: tuple[str, ...] = ("models", "predict", "reid", "retrieve", "ground", "filter", "weights", "hub")
GROUPS += ("train", "teach", "export", "bench", "serve", "doctor")

# what a machine refuses, wherever it is met
THEIRS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EMFILE)

WAY = (  # for who types `zoo` alone; the first two work at once, on any machine
    ("zoo list", "what there is, and whose weights are here"),
    ("zoo predict photo.jpg", "what is in a picture; a folder, a glob or an address too"),
    ("zoo embed lite0_extractor photos/ --out f.npy", "features of many pictures"),
    ("zoo filter photo.jpg --out smooth", "texture away, structure kept"),
    ("zoo reid --help, zoo retrieve --help", "search people, search videos"),
    ("zoo doctor", "what this installation can do, and what it lacks"),
    ("zoo --help", "every command; each has examples under --help"),
)

app = typer.Typer(
    name="zoo",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]zoo list[/], then [bold]zoo predict NAME picture.jpg[/].",
)


def _version(wanted: bool) -> None:
    if wanted:
        import zoo

        out.line(f"zoo {zoo.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def zoo_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrained vision networks: list them, run them, train them."""
    if context.invoked_subcommand is None:
        out.line("Pretrained vision networks. A way in:")
        for command, does in WAY:
            out.line(f"  {out.style(command, 'bold')}")
            out.line(f"      {does}")
        raise typer.Exit(2)  # nothing was asked for


def commands() -> typer.Typer:
    """The application with every group's commands."""
    for group in GROUPS:
        importlib.import_module(f"zoo.cli.{group}")
    return app


def main() -> None:
    """Run the command line and exit: 0, or the error's own code, 70 for a fault of ours, 130 after Ctrl-C."""
    out.settle()
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
    except OSError as error:
        if out.debug or error.errno not in THEIRS:
            _fault(error)
        named = f"{error.filename}: " if error.filename else ""
        out.error(InputError(f"{named}{error.strerror}", hint="check the path, its permissions and the disk"))
        sys.exit(1)
    except KeyboardInterrupt:  # between commands; within one, typer exits with 130 by itself
        sys.exit(130)
    except Exception as error:
        _fault(error)


def _fault(error: Exception) -> NoReturn:
    """The end for a fault of ours."""
    if out.debug:
        raise error
    out.internal_error(error)
    sys.exit(70)
