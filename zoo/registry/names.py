"""Names to cards: list, resolve, suggest. Cards are read one at a time, when asked for."""

import fnmatch
import importlib.util
import logging
from collections import defaultdict
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from zoo import settings
from zoo.errors import CardError, UnknownName
from zoo.registry.card import Card, read_card

__all__ = ["card_path", "forget", "list_names", "load_card", "nearest_names", "resolve"]

GROUP = "zoo.cards"  # entry points of other packages; each names a package with a folder `cards`

_log = logging.getLogger(__name__)


def list_names(pattern: str = "*", *, task: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Names of the checkpoints, sorted.

    Args:
        pattern: Shell wildcards, matched against `<arch>.<tag>` and against the bare architecture.
        task: Only networks for this task.
        pretrained: Only those whose weights can be had, or (False) only those whose weights cannot.

    Raises:
        CardError: One of our cards does not parse. Bad cards of other packages are logged and left out.
    """
    names = [name for name in _ours() | _sound_theirs() if _matches(name, pattern)]
    if task is not None:
        names = [name for name in names if load_card(name).task == task]
    if pretrained is not None:
        names = [name for name in names if load_card(name).weights.available == pretrained]
    return sorted(names)


def resolve(name: str) -> Card:
    """The card that a name means.

    Tried in this order: `<arch>.<tag>`, the bare architecture (its default), an alias, the spelling `<arch>_<tag>`.

    Raises:
        UnknownName: Nothing answers to it; the hint holds the three nearest names.
        CardError: The card does not parse, or two cards claim the name.
    """
    for folder in (_ours, _all):  # other packages are scanned only for names that are not ours
        cards = folder()
        if name in cards:
            return load_card(name)
        if name in {_architecture(known) for known in cards}:
            return _default(name, cards)
        known = _aliases(folder is _all).get(name) or _underscored(cards).get(name)
        if known:
            return load_card(known)
    near = nearest_names(name)
    raise UnknownName(f"no model {name!r}", hint=f"did you mean {', '.join(near)}?" if near else "see: zoo list")


@cache
def load_card(name: str) -> Card:
    """The card of exactly this checkpoint.

    Args:
        name: `<arch>.<tag>`.

    Raises:
        UnknownName: There is no such file.
        CardError: It does not parse.
    """
    return read_card(card_path(name))


def card_path(name: str) -> Path:
    """The file of exactly this checkpoint's card.

    Args:
        name: `<arch>.<tag>`.

    Raises:
        UnknownName: There is no such file.
    """
    path = _ours().get(name) or _theirs().get(name)
    if path is None:
        raise UnknownName(f"no card {name!r}", hint="see: zoo list")
    return path


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Names that look most like this one, nearest first."""
    import difflib

    cards = _all()
    known = set(cards) if "." in name else {_architecture(card) for card in cards} | set(_aliases(True))
    return difflib.get_close_matches(name, sorted(known), n=count, cutoff=0.0)


def forget() -> None:
    """Read the card folders anew at the next call; for those that write cards."""
    for function in (load_card, _ours, _theirs, _sound_theirs, _aliases):
        function.cache_clear()


def _architecture(name: str) -> str:
    return name.partition(".")[0]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(_architecture(name), pattern)


def _underscored(cards: dict[str, Path]) -> dict[str, str]:
    spelled: dict[str, str] = {}
    for name in cards:
        other = spelled.setdefault(name.replace(".", "_"), name)
        if other != name:
            raise CardError(f"{other} and {name} are the same name when spelled with _", hint="rename one of them")
    return spelled


@cache
def _ours() -> dict[str, Path]:
    return {path.stem: path for path in sorted(settings.card_folder().glob("*.md"))}


@cache
def _theirs() -> dict[str, Path]:
    """Cards of other packages. A name that is ours stays ours."""
    found: dict[str, Path] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        for path in _card_files(entry):
            if path.stem in _ours() or path.stem in found:
                _log.warning("%s: another card is named %s already; this one is left out", path, path.stem)
            else:
                found[path.stem] = path
    return found


def _card_files(entry: EntryPoint) -> list[Path]:
    try:
        spec = importlib.util.find_spec(entry.module)
    except ImportError as error:
        _log.warning("package %s, which offers cards, cannot be found: %s", entry.value, error)
        return []
    folders = (spec.submodule_search_locations or []) if spec else []
    if not folders:
        _log.warning("package %s, which offers cards, is not installed as a package", entry.value)
    return sorted(path for folder in folders for path in Path(folder, "cards").glob("*.md"))


@cache
def _sound_theirs() -> dict[str, Path]:
    """Cards of other packages that parse: theirs must not break a list of ours."""
    sound = {}
    for name, path in _theirs().items():
        try:
            load_card(name)
        except (CardError, OSError, UnicodeDecodeError) as error:
            _log.warning("left out: %s", error)
        else:
            sound[name] = path
    return sound


def _all() -> dict[str, Path]:
    return _ours() | _theirs()


def _default(architecture: str, cards: dict[str, Path]) -> Card:
    tagged = [name for name in cards if _architecture(name) == architecture]
    if len(tagged) == 1:
        return load_card(tagged[0])
    defaults = [card for card in map(load_card, tagged) if card.default]
    if len(defaults) != 1:
        raise CardError(
            f"{len(defaults)} of the cards {', '.join(tagged)} are the default of {architecture}",
            hint="write `default: true` in exactly one of them, or ask for one by its full name",
        )
    return defaults[0]


@cache
def _aliases(with_theirs: bool) -> dict[str, str]:
    """Other names, each to its checkpoint.

    Raises:
        CardError: An alias means two checkpoints, or is the name of another one.
    """
    cards = _ours() | _sound_theirs() if with_theirs else _ours()
    taken = defaultdict(set)
    for name in cards:
        taken[name].add(name)
        taken[_architecture(name)].add(name)
        taken[name.replace(".", "_")].add(name)
    aliases: dict[str, str] = {}
    for name in cards:
        for alias in load_card(name).aliases:
            others = (taken[alias] | {aliases.get(alias, name)}) - {name}
            if not others:
                aliases[alias] = name
            elif name in _ours():
                raise CardError(
                    f"{name} and {', '.join(sorted(others))} both claim the name {alias}", hint="drop the alias"
                )
            else:
                _log.warning("alias %s of %s is taken by %s and left out", alias, name, ", ".join(sorted(others)))
    return aliases
