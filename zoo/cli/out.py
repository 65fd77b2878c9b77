"""The one place that prints. Data goes to stdout, talk to stderr."""

import codecs
import csv as csv_format
import io
import json as json_format
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from zoo.errors import InputError, UsageError, ZooError

__all__ = [
    "Failures",
    "Form",
    "Rows",
    "clock",
    "data",
    "error",
    "fact",
    "flush",
    "form",
    "internal_error",
    "is_terminal",
    "line",
    "live",
    "progress",
    "rich",
    "say",
    "settle",
    "size",
    "style",
    "table",
]

Form = Literal["human", "json", "jsonl", "csv"]

debug = False  # set by --debug
quiet = False  # set by --quiet

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
SHOWN = 100  # failures listed by name


def settle() -> None:
    """Let names of files pass that are no text to the terminal: as they are, or spelled out where it has no UTF-8."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            passes = stream is sys.stdin or codecs.lookup(stream.encoding).name == "utf-8"
            stream.reconfigure(errors="surrogateescape" if passes else "backslashreplace")


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at a stream."""
    return stream.isatty()


def style(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """Text with terminal styles; bare when nobody looks, under NO_COLOR and on a dumb terminal."""
    stream = stream or sys.stdout
    if not styles or not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{';'.join(CODES[name] for name in styles)}m{text}\033[0m"


def line(text: str = "") -> None:
    """One line of data."""
    _write(text + "\n")


def fact(key: str, value: str) -> None:
    """A named fact; a long one is wrapped under itself on a terminal."""
    room = shutil.get_terminal_size().columns - 13 if is_terminal(sys.stdout) else 0
    rows = textwrap.wrap(value, max(room, 20), break_on_hyphens=False) if room else [value]
    for i, row in enumerate(rows):
        line(f"  {style(key.ljust(10), 'cyan') if i == 0 else ' ' * 10} {row}")


def say(text: str) -> None:
    """One line of talk; nothing under --quiet."""
    if not quiet:
        print(text, file=sys.stderr)


def error(fault: ZooError) -> None:
    """A fault and its way out."""
    print(f"{style('error:', 'red', 'bold', stream=sys.stderr)} {fault.message}", file=sys.stderr)
    if fault.hint:
        print(f"  {style('try:', 'bold', stream=sys.stderr)} {fault.hint}", file=sys.stderr)


def internal_error(fault: Exception) -> None:
    """A fault of ours, in one line."""
    text = " ".join(f"{type(fault).__name__}: {fault}".split())
    print(f"{style('internal error:', 'red', 'bold', stream=sys.stderr)} {text}", file=sys.stderr)
    print("  this is a fault of zoo; the same command with --debug shows where", file=sys.stderr)


def form(json: bool = False, jsonl: bool = False, csv: bool = False) -> Form:
    """The output's form from the options.

    Raises:
        UsageError: More than one.
    """
    wanted: dict[Form, bool] = {"json": json, "jsonl": jsonl, "csv": csv}
    asked = [name for name, is_wanted in wanted.items() if is_wanted]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]} and --{asked[1]} together", hint="choose one")
    return asked[0] if asked else "human"


def data(value: Any) -> None:
    """One JSON document, indented."""
    line(json_format.dumps(value, indent=2, ensure_ascii=False))


def rich(renderable: Any) -> None:
    """Something drawn by rich, for a terminal."""
    from rich.console import Console

    with _pipe_open():
        Console(highlight=False).print(renderable)


def size(count: int | None) -> str:
    """Bytes for people: "1.2 MB"."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    value, unit = next((count / 1000**i, u) for i, u in ((3, "GB"), (2, "MB"), (1, "kB")) if count >= 1000**i)
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def clock(seconds: float) -> str:
    """A length of time for people: "1:05" is a minute and five seconds, "2:00:05" two hours more."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Aligned columns under a bold head; a cell is never cut.

    Args:
        columns: Heads.
        rows: Cells.
        right: Columns of numbers.
        spare: Columns that a narrow terminal goes without, the first one first; a line on stderr names them.
    """
    cells = [list(row) for row in rows]
    widths = {name: max(len(row[i]) for row in [columns, *cells]) for i, name in enumerate(columns)}
    shown = list(columns)
    room = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else sys.maxsize
    left_out = []
    for name in spare:
        if sum(widths[c] + 2 for c in shown) - 2 <= room:
            break
        shown.remove(name)
        left_out.append(name)

    def joined(row: Sequence[str]) -> str:
        found = dict(zip(columns, row, strict=True))
        return "  ".join(found[c].rjust(widths[c]) if c in right else found[c].ljust(widths[c]) for c in shown).rstrip()

    line(style(joined(columns), "bold"))
    for row in cells:
        line(joined(row))
    if left_out:
        say(style(f"(no room for: {', '.join(left_out)}; --json has them)", "dim", stream=sys.stderr))


class Rows:
    """Prints results one at a time, as JSON, JSON lines, CSV, or what `human` makes of them.

    Args:
        form: The output's form.
        human: Prints one result for people.
        flat: The CSV rows of one result; the keys of the first row are the heads.
    """

    def __init__(
        self, form: Form, human: Callable[[Any], None], flat: Callable[[Any], list[Mapping[str, Any]]]
    ) -> None:
        self.form = form
        self.human = human
        self.flat = flat
        self.count = 0

    def __enter__(self) -> "Rows":
        if self.form == "json":
            _write("[")
        return self

    def __exit__(self, *fault: object) -> None:
        if self.form == "json" and fault[0] is None:
            _write("\n]\n" if self.count else "]\n")

    def __call__(self, result: Any) -> None:
        if self.form == "json":
            _write(("," if self.count else "") + "\n" + json_format.dumps(result.to_dict(), ensure_ascii=False))
        elif self.form == "jsonl":
            line(json_format.dumps(result.to_dict(), ensure_ascii=False))
        elif self.form == "csv":
            rows = self.flat(result)
            with _pipe_open():
                writer = csv_format.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
                if not self.count:
                    writer.writeheader()
                writer.writerows(rows)
        else:
            self.human(result)
        self.count += 1


class Failures:
    """Bad inputs among good ones: counted, and listed at the end."""

    def __init__(self, faults: Iterable[ZooError] = ()) -> None:
        self.first: list[ZooError] = []
        self.count = 0
        for fault in faults:
            self.add(fault)

    def add(self, fault: ZooError) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.first.append(fault)

    def report(self, total: int) -> int:
        """List them on stderr; returns the exit code."""
        if not self.count:
            return 0
        if total == 1:
            error(self.first[0])
            return self.first[0].exit_code
        print(style(f"{self.count} of {total} inputs failed:", "red", "bold", stream=sys.stderr), file=sys.stderr)
        for fault in self.first:
            print(f"  {fault.message}", file=sys.stderr)
        if self.count > SHOWN:
            print(f"  and {self.count - SHOWN} more", file=sys.stderr)
        hints = {fault.hint for fault in self.first}
        if len(hints) == 1 and None not in hints:  # one way out of all of them, such as a package that is missing
            print(f"  {style('try:', 'bold', stream=sys.stderr)} {hints.pop()}", file=sys.stderr)
        return 1


@contextmanager
def live() -> Iterator[Callable[..., None]]:
    """Where long work is: on a terminal, a bar on stderr that moves; elsewhere, lines that stay.

    Yields:
        What to call with a line of text, the share that is done in [0, 1], and whether the line stays (`stays=True`).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (BarColumn(24), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1.0)

        def show(text: str, done: float, *, stays: bool = False) -> None:
            if stays:
                console.print(Text(text), soft_wrap=True)
            bar.update(task, description="" if stays else text, completed=done, refresh=True)

        yield show


@contextmanager
def progress(what: str, total: int | None = None, *, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Counts steps; after a second, on a terminal, one line on stderr shows how many, how fast and how long still.

    Args:
        what: Word before the bar.
        total: Steps to come, where known.
        wanted: False for none, such as when the data goes to the same terminal.

    Yields:
        What to call after each step.
    """
    start = shown = time.monotonic()
    count = 0
    visible = wanted and not quiet and is_terminal(sys.stderr)

    def step() -> None:
        nonlocal count, shown
        count += 1
        now = time.monotonic()
        if visible and now - shown > (1.0 if shown == start else 0.1):
            shown = now
            print(f"\r\033[K{_bar(what, count, total, now - start)}", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        if shown != start:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _bar(what: str, count: int, total: int | None, seconds: float) -> str:
    rate = count / seconds
    text = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
    if not total:
        return f"{what}  {count:,}  {text}"
    left = (total - count) / rate
    filled = min(24, 24 * count // total)
    bar = "━" * filled + style("━" * (24 - filled), "dim", stream=sys.stderr)
    return f"{what}  {bar}  {count:,}/{total:,}  {text}  {clock(left)} left"


def flush() -> None:
    """Hand over what is still held back; the interpreter would complain at its end when nobody takes it."""
    with _pipe_open():
        sys.stdout.flush()


def _write(text: str) -> None:
    with _pipe_open():
        sys.stdout.write(text)
        if is_terminal(sys.stdout):
            sys.stdout.flush()


@contextmanager
def _pipe_open() -> Iterator[None]:
    """Ends the process quietly, as a shell expects, once nobody reads the output.

    Raises:
        InputError: The output has no room for more.
    """
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(141)  # 128 + SIGPIPE
        raise InputError(f"the output cannot be written: {error.strerror}", hint="make room") from error
