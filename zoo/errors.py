"""Every error a user can meet, with the exit code it gives the command line.

ZooError                1   an input could not be used
├── UsageError          2   the call is wrong
│   ├── UnknownName         no such model, label list, recipe
│   └── CardError           a card does not parse or contradicts itself
├── HubError            1   a Hub did not take what was to be published
├── WeightsUnavailable  3   the checkpoint is known, its file is nowhere to be had
└── IntegrityError      4   a file is not what its card or its format says

`InputError` is the plain 1: one bad picture, one bad row. Programmer errors stay `ValueError` and `TypeError`.
"""

__all__ = [
    "CardError",
    "HubError",
    "InputError",
    "IntegrityError",
    "UnknownName",
    "UsageError",
    "WeightsUnavailable",
    "ZooError",
    "one_line",
]


class ZooError(Exception):
    """What is wrong, in one line, and what to do about it.

    Args:
        message: The fault, with the value in hand.
        hint: The way out.
        source: What results call the input in whose place the error stands.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, source: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.source = source
        if hint:
            self.add_note(f"  try: {hint}")  # a traceback shows it below the message

    def to_dict(self) -> dict[str, str | None]:
        """Plain JSON types: kind, message, hint."""
        return {"kind": type(self).__name__, "message": self.message, "hint": self.hint}

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (
            type(self),
            self.message,
            self.hint,
            self.source,
        )  # worker processes send errors home by pickle


def _rebuild(kind: type[ZooError], message: str, hint: str | None, source: str | None) -> ZooError:
    return kind(message, hint=hint, source=source)


class InputError(ZooError):
    """One input that cannot be used."""


class HubError(ZooError):
    """A Hub did not take what was to be published."""


class UsageError(ZooError):
    """A call that cannot work, whatever the input."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing answers to."""


class CardError(UsageError):
    """A card that does not parse, or that contradicts another."""


class WeightsUnavailable(ZooError):
    """The checkpoint is known, its file is nowhere to be had."""

    exit_code = 3


class IntegrityError(ZooError):
    """A file is not what its card or its format says."""

    exit_code = 4


def one_line(error: BaseException, most: int = 200) -> str:
    """What a library's error says, on one line and cut to a length; its kind where it says nothing."""
    said = f"no {error}" if isinstance(error, KeyError) and error.args else str(error)  # which says the key alone
    return " ".join(said.split())[:most] or type(error).__name__
