"""Checkpoints copied from one Hub to a folder, which serves machines without a network, or to another Hub."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo import settings
from zoo.errors import HubError, UsageError, ZooError
from zoo.hub.fetch import weights_path
from zoo.hub.push import SIGNATURE, push
from zoo.hub.readme import pictures
from zoo.hub.remote import api, explain, fetch_file, transport_errors
from zoo.registry.card import Card

__all__ = ["Mirrored", "mirror"]


@dataclass(frozen=True)
class Mirrored:
    """What became of one checkpoint.

    Attributes:
        name: `<arch>.<tag>`.
        commit: Its commit where it came from; none where it was not copied.
        place: Folder or page where it is now.
        error: Why it is not there.
    """

    name: str
    commit: str | None = None
    place: str | None = None
    error: ZooError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "error": self.error.message if self.error else None}


def mirror(cards: Iterable[Card], target: str) -> Iterator[Mirrored]:
    """Copy checkpoints, one after the other, each checked against its card; a bad one does not stop the others.

    What is there already is not copied again. Of a repository, only the files that zoo and timm read are asked for.

    Args:
        cards: The checkpoints. Bundled ones that were not published as well are passed over.
        target: A folder, to be named in HF_HUB_CACHE; or the address of a Hub, which is shown ZOO_MIRROR_TOKEN.

    Raises:
        UsageError: The target is the Hub that is read from, or the network is off limits.
    """
    if settings.hub_offline():
        raise UsageError("HF_HUB_OFFLINE is set", hint="mirror from a machine that reaches the Hub")
    if target.rstrip("/") == settings.hub_endpoint():
        raise UsageError(f"{target} is where the files come from", hint="--endpoint or HF_ENDPOINT names the source")
    for card in cards:
        try:
            if _has_repository(card):
                yield _copy(card, target)
        except ZooError as error:
            yield Mirrored(card.name, error=error)


def _has_repository(card: Card) -> bool:
    """Whether there is something to copy; of a published checkpoint that is taken for granted."""
    repository = f"{settings.hub_org()}/{card.name}"
    try:
        return card.weights.status == "published" or api().repo_exists(repository)
    except transport_errors() as error:
        reason, hint = explain(error, repository, "")
        raise HubError(f"{repository} could not be looked for: {reason}", hint=hint) from error


def _copy(card: Card, target: str) -> Mirrored:
    if "://" not in target:
        files = _fetch(card, Path(target))
        return Mirrored(card.name, files[0].parent.name, str(files[0].parent))
    files = _fetch(card, None)
    token = settings.mirror_token() or False
    repository = f"{settings.hub_org()}/{card.name}"
    pushed = push(files, repository, f"Mirror of {settings.hub_endpoint()}", endpoint=target.rstrip("/"), token=token)
    return Mirrored(card.name, files[0].parent.name, pushed.url)


def _fetch(card: Card, cache_dir: Path | None) -> list[Path]:
    """The checkpoint's files, all of one commit, in a cache."""
    repository = f"{settings.hub_org()}/{card.name}"
    config = fetch_file(repository, "config.json", cache_dir=cache_dir)
    commit = config.parent.name
    weights = weights_path(card, revision=commit, cache_dir=cache_dir)
    client = api()
    try:
        names = [
            name
            for name in ("README.md", SIGNATURE, *pictures(card))
            if client.file_exists(repository, name, revision=commit)
        ]
    except transport_errors() as error:
        reason, hint = explain(error, repository, "README.md")
        raise HubError(f"{repository} could not be listed: {reason}", hint=hint) from error
    return [
        weights,
        config,
        *(fetch_file(repository, name, revision=commit, cache_dir=cache_dir) for name in names),
    ]
