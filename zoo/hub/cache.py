"""Our checkpoints on this machine: list, verify, prune."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo import settings
from zoo.errors import InputError, UnknownName, one_line
from zoo.hub.fetch import FILE, mismatch, sha256_of
from zoo.registry.names import load_card

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo

__all__ = ["LocalFile", "cached", "prune", "verify"]


@dataclass(frozen=True)
class LocalFile:
    """A checkpoint's file on this machine.

    Attributes:
        name: `<arch>.<tag>`.
        path: Where it is.
        bytes: Its length.
        place: In the package, or in the Hugging Face cache.
        revision: Commit on the Hub; none for a bundled file.
    """

    name: str
    path: Path
    bytes: int
    place: Literal["bundled", "cache"]
    revision: str | None = None

    def to_dict(self) -> dict[str, str | int | None]:
        """Plain JSON types."""
        return {**vars(self), "path": str(self.path)}


def cached() -> list[LocalFile]:
    """Files of ours, bundled ones first.

    Raises:
        InputError: What HF_HUB_CACHE names is no folder.
    """
    bundled = [
        LocalFile(path.stem, path, path.stat().st_size, "bundled")
        for path in sorted(settings.bundled_weights().glob("*.safetensors"))
    ]
    info = _scan()
    fetched = [
        LocalFile(repo.repo_id.partition("/")[2], file.file_path, file.size_on_disk, "cache", revision.commit_hash)
        for repo in (info.repos if info else ())
        if repo.repo_type == "model" and repo.repo_id.startswith(f"{settings.hub_org()}/")
        for revision in repo.revisions
        for file in revision.files
        if file.file_name == FILE
    ]
    return bundled + sorted(fetched, key=lambda file: (file.name, file.revision or ""))


def verify(names: Iterable[str] | None = None) -> list[tuple[LocalFile, Literal["ok", "corrupt", "unknown"]]]:
    """Each file with its state, from reading it whole.

    "ok" is the card's file. "unknown" has no card, or a card without a digest, or is an intact file of another
    revision. Everything else is "corrupt".

    Args:
        names: Only these checkpoints.
    """
    wanted = None if names is None else set(names)
    return [(file, _state(file)) for file in cached() if wanted is None or file.name in wanted]


def prune(names: Iterable[str]) -> int:
    """Remove checkpoints from the Hugging Face cache, in all revisions; returns the bytes freed. Bundled files stay."""
    info = _scan()
    if info is None:
        return 0
    wanted = {f"{settings.hub_org()}/{name}" for name in names}
    revisions = [
        revision.commit_hash
        for repo in info.repos
        if repo.repo_type == "model" and repo.repo_id in wanted
        for revision in repo.revisions
    ]
    strategy = info.delete_revisions(*revisions)
    strategy.execute()
    return strategy.expected_freed_size


def _scan() -> "HFCacheInfo | None":
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return scan_cache_dir()
    except CacheNotFound:  # nothing was ever fetched
        return None
    except ValueError as error:
        raise InputError(one_line(error), hint="name a folder in HF_HUB_CACHE, or none") from None


def _state(file: LocalFile) -> Literal["ok", "corrupt", "unknown"]:
    try:
        card = load_card(file.name)
    except UnknownName:
        return "unknown"
    if card.weights.sha256 is None:
        return "unknown"
    if mismatch(file.path, card) is None:
        return "ok"
    blob = file.path.resolve().name  # the Hub names large files by their digest
    intact = bool(re.fullmatch(r"[0-9a-f]{64}", blob)) and blob == sha256_of(file.path)
    return "unknown" if intact else "corrupt"
