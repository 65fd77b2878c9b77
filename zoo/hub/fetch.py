"""The verified file of a checkpoint: bundled, else in the Hugging Face cache, else from the Hub."""

import difflib
import hashlib
import logging
from pathlib import Path

from zoo import settings
from zoo.errors import IntegrityError, UsageError, WeightsUnavailable
from zoo.hub.remote import fetch_file
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
    repository = f"{settings.hub_org()}/{card.name}"
    known = _known(repository, card, cache_dir) if revision is None else None
    if known:
        return known
    path = _cached(repository, revision, cache_dir) or fetch_file(
        repository, FILE, revision=revision, cache_dir=cache_dir
    )
    fault = mismatch(path, card)
    if not fault:
        return path
    _log.warning("%s %s; fetching it again", path, fault)
    try:
        path = fetch_file(repository, FILE, revision=revision, cache_dir=cache_dir, force=True)
    except WeightsUnavailable as error:
        raise IntegrityError(
            f"{path} {fault}, and {error}", hint=f"zoo cache prune {card.name}, then zoo pull it"
        ) from error
    fault = mismatch(path, card)
    if fault:
        raise IntegrityError(
            f"{path} {fault}, also when fetched anew",
            hint=f"the Hub holds another file than the card of {card.name}: update zoo, or tell its owner",
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


def _known(repository: str, card: Card, cache_dir: Path | str | None) -> Path | None:
    """The card's file in the cache, of whichever revision: main may have moved on, or its download have failed."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "snapshots")
    found = (path for path in sorted(folder.glob(f"*/{FILE}")) if path.is_file() and not mismatch(path, card))
    return next(found, None)


def _cached(repository: str, revision: str | None, cache_dir: Path | str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, FILE, cache_dir=cache_dir, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _ways_out(card: Card) -> str:
    ways = [
        f"convert the authors' file: zoo convert {card.architecture} FILE.pth --out {card.architecture}.safetensors"
    ]
    if card.origin and card.origin.recipe:
        ways.append(f"train it: zoo train {card.origin.recipe}")
    starters = [name for name in list_names(task=card.task) if load_card(name).weights.status == "bundled"]
    near = difflib.get_close_matches(card.name, starters, n=1, cutoff=0.0)
    return "; or ".join([*ways, *(f"use the starter {name}" for name in near)])
