"""The verified file of a checkpoint: bundled, else in the Hugging Face cache, else from the Hub."""

import difflib
import errno
import hashlib
import logging
from pathlib import Path

from zoo import settings
from zoo.errors import IntegrityError, UsageError, WeightsUnavailable
from zoo.registry.card import Card
from zoo.registry.names import list_names, load_card

__all__ = ["FILE", "mismatch", "sha256_of", "weights_path"]

FILE = "model.safetensors"  # in every repository on the Hub

_log = logging.getLogger(__name__)


def weights_path(card: Card, *, revision: str | None = None, cache_dir: Path | str | None = None) -> Path:
    """Where the checkpoint's file is, fetched if need be; length and sha256 are checked every time.

    Args:
        card: The checkpoint.
        revision: Branch, tag or commit of its repository on the Hub; passes over the bundled file.
        cache_dir: In place of Hugging Face's cache.

    Raises:
        UsageError: The network needs no weights.
        WeightsUnavailable: Nobody published the file, or it cannot be fetched.
        IntegrityError: The file is not the one that the card describes.
    """
    if card.weights.status == "none":
        raise UsageError(f"{card.name} has no weights and needs none", hint="use it without asking for weights")
    if card.weights.status == "unpublished":
        raise WeightsUnavailable(f"{card.name} has no published weights", hint=_ways_out(card))
    bundled = settings.bundled_weights() / f"{card.name}.safetensors"
    if revision is None and bundled.is_file():
        fault = mismatch(bundled, card)
        if fault:
            raise IntegrityError(f"{bundled} {fault}", hint="the installation is damaged: install zoo again")
        return bundled
    path = _cached(card, revision, cache_dir) or _download(card, revision, cache_dir)
    fault = mismatch(path, card)
    if not fault:
        return path
    _log.warning("%s %s; fetching it again", path, fault)
    try:
        path = _download(card, revision, cache_dir, force=True)
    except WeightsUnavailable as error:
        raise IntegrityError(
            f"{path} {fault}, and {error}", hint=f"zoo cache prune {card.name}, then zoo pull it"
        ) from error
    fault = mismatch(path, card)
    if fault:
        raise IntegrityError(
            f"{path} {fault}, also when fetched anew", hint=f"the Hub holds another file than the card of {card.name}"
        )
    return path


def mismatch(path: Path, card: Card) -> str | None:
    """How a file differs from the card's: "has 12 bytes, its card says 345"; None when it does not."""
    size = path.stat().st_size
    if size != card.weights.bytes:
        return f"has {size} bytes, its card says {card.weights.bytes}"
    found = sha256_of(path)
    if found != card.weights.sha256:
        return f"has sha256 {found[:12]}, its card says {str(card.weights.sha256)[:12]}"
    return None


def sha256_of(path: Path) -> str:
    """Digest of a file, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(card: Card, revision: str | None, cache_dir: Path | str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(f"{settings.hub_org()}/{card.name}", FILE, cache_dir=cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _download(card: Card, revision: str | None, cache_dir: Path | str | None, *, force: bool = False) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    # the HTTP client's own base class; which client that is differs between versions
    transport: type[Exception] = HfHubHTTPError.__bases__[0]
    repository = f"{settings.hub_org()}/{card.name}"
    try:
        return Path(hf_hub_download(repository, FILE, revision=revision, cache_dir=cache_dir, force_download=force))
    except (transport, OSError, ValueError) as error:
        reason, hint = _explain(error, repository)
        raise WeightsUnavailable(f"{card.name} could not be fetched: {reason}", hint=hint) from error


def _explain(error: Exception, repository: str) -> tuple[str, str]:
    """One line and the way out for what huggingface_hub raised, often with the cause wrapped."""
    from huggingface_hub import errors

    answered = isinstance(error, errors.HfHubHTTPError)  # then the error itself says what; else its cause does
    cause = error.__cause__ if not answered and isinstance(error.__cause__, Exception) else error
    online = "check the connection and HF_ENDPOINT, then try again"
    match cause:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set and it is not in the cache", "unset HF_HUB_OFFLINE once, and: zoo pull NAME"
        case errors.GatedRepoError():
            return f"{repository} is gated", "ask for access on its page, then: hf auth login"
        case errors.RepositoryNotFoundError():
            return f"there is no repository {repository}, or it is private", "check ZOO_HUB_ORG and HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"{repository} has no such revision", "leave the revision out, or check it on the repository's page"
        case errors.EntryNotFoundError() if isinstance(cause, errors.HfHubHTTPError):
            return f"{repository} has no {FILE}", "tell its owner; another revision may have it"
        case errors.HfHubHTTPError():
            return f"the Hub answered {cause.response.status_code}", "try again later, or another HF_ENDPOINT"
        case OSError() if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return f"the cache cannot be written ({cause.strerror})", "make room, or set HF_HOME to another folder"
        case _:
            return f"the Hub cannot be reached ({type(cause).__name__})", online


def _ways_out(card: Card) -> str:
    ways = [
        f"convert the authors' file: zoo convert {card.architecture} FILE.pth --out {card.architecture}.safetensors"
    ]
    if card.origin and card.origin.recipe:
        ways.append(f"train it: zoo train {card.origin.recipe}")
    starters = [name for name in list_names(task=card.task) if load_card(name).weights.status == "bundled"]
    near = difflib.get_close_matches(card.name, starters, n=1, cutoff=0.0)
    return "; or ".join([*ways, *(f"use the starter {name}" for name in near)])
