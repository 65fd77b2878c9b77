"""The command reference: what every command's --help says, and the examples in it."""

import functools
import re

import typer
from typer.testing import CliRunner

from zoo.cli.app import commands

__all__ = ["command_names", "commands_page", "examples"]

WIDTH = 100


def command_names() -> list[str]:
    """Every command, a group's as "cache list"."""
    return _names(commands())


def commands_page() -> str:
    """Markdown with every help page."""
    parts = ["# Commands", "`zoo COMMAND --help` says the same. Data goes to stdout, talk to stderr."]
    for name in ["", *command_names()]:
        parts.append(f"## zoo {name}".rstrip() + f"\n\n```text\n{_help(name)}\n```")
    return "\n\n".join(parts) + "\n"


def examples(command: str) -> list[str]:
    """The example lines of a command's help, or of all commands of a group; none where there is no such command."""
    lines = [
        line.strip()
        for name in command_names()
        if name == command or name.startswith(f"{command} ")
        for line in _help(name, width=400).partition("Examples")[2].splitlines()
    ]
    return [line for line in lines if re.match(r"(zoo |.*\| zoo )", line)]


def _names(app: typer.Typer) -> list[str]:
    """From the functions that were registered; a command without a name has its function's."""
    found = []
    for command in app.registered_commands:
        assert command.callback
        found.append(command.name or command.callback.__name__.replace("_", "-"))
    for group in app.registered_groups:
        assert group.typer_instance
        found += [f"{group.name or group.typer_instance.info.name} {name}" for name in _names(group.typer_instance)]
    return found


@functools.cache
def _help(name: str, width: int = WIDTH) -> str:
    environment = {"COLUMNS": str(width), "TERMINAL_WIDTH": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner(env=environment).invoke(commands(), [*name.split(), "--help"], prog_name="zoo")
    return "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines())
