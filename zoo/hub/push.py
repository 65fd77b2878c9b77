"""A folder to a repository on a Hub: one commit, nothing that is there already, checked afterwards."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import settings
from zoo.errors import HubError, IntegrityError, UsageError
from zoo.hub.fetch import FILE, sha256_of
from zoo.hub.remote import api, explain, transport_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

__all__ = ["SIGNATURE", "Pushed", "push"]

SIGNATURE = "model.sig"


@dataclass(frozen=True)
class Pushed:
    """What came of it.

    Attributes:
        url: The repository's page.
        commit: The commit that holds the files.
        changed: Files that were uploaded; empty when all were there.
    """

    url: str
    commit: str
    changed: tuple[str, ...]


def push(
    files: Iterable[Path],
    repository: str,
    message: str,
    *,
    endpoint: str | None = None,
    token: str | bool | None = None,
) -> Pushed:
    """Upload files side by side into a repository, which is made if it is not there.

    Called again after it was interrupted, it uploads what is missing; called again after it was not, nothing.

    Args:
        files: One of them is the weights.
        repository: `<org>/<name>`.
        message: What the commit is called.
        endpoint: Address of the Hub; none for the one of the settings.
        token: What to show it; none for the one huggingface_hub finds, False for none at all.

    Raises:
        UsageError: The network is off limits.
        HubError: The Hub did not take them.
        IntegrityError: The Hub says it holds other weights than were sent.
    """
    if settings.hub_offline():
        raise UsageError("HF_HUB_OFFLINE is set", hint="--dry-run builds the folder without the network")
    by_name = {path.name: path for path in files}
    client = api(endpoint, token=token)
    try:
        client.create_repo(repository, exist_ok=True)
        known = _remote(client, repository, by_name)
        changed = tuple(name for name, path in by_name.items() if not _is_same(path, known.get(name)))
        unsigned = set(changed) - {SIGNATURE}  # a signature differs each time it is made
        if unsigned or not set(by_name) <= set(known):
            commit = _commit(client, repository, {name: by_name[name] for name in changed}, message)
        else:
            changed, commit = (), str(client.model_info(repository).sha)
        stored = _remote(client, repository, [FILE], commit).get(FILE)
    except transport_errors() as error:
        reason, hint = explain(error, repository, FILE)
        raise HubError(f"{repository} could not be uploaded: {reason}", hint=f"{hint}; what arrived is kept") from error
    if not _is_same(by_name[FILE], stored):
        raise IntegrityError(f"{repository} now holds another {FILE} than was sent", hint="upload it again")
    return Pushed(f"{client.endpoint}/{repository}", commit, changed)


def _commit(client: "HfApi", repository: str, files: dict[str, Path], message: str) -> str:
    """One commit with all files, or none."""
    from huggingface_hub import CommitOperationAdd

    with ExitStack() as opened:
        # Only the public Hub is known to have xet storage; of an open file huggingface_hub makes a plain LFS upload
        sources = {
            name: path if client.endpoint == settings.PUBLIC_HUB else opened.enter_context(path.open("rb"))
            for name, path in files.items()
        }
        operations = [CommitOperationAdd(name, source) for name, source in sources.items()]
        return client.create_commit(repository, operations, commit_message=message).oid


def _remote(
    client: "HfApi", repository: str, names: Iterable[str], revision: str | None = None
) -> "dict[str, RepoFile]":
    from huggingface_hub.hf_api import RepoFile

    found = client.get_paths_info(repository, list(names), revision=revision)
    return {file.path: file for file in found if isinstance(file, RepoFile)}


def _is_same(path: Path, remote: "RepoFile | None") -> bool:
    """Whether a file on the Hub has this content: large ones go by their sha256, others by git's name for them."""
    if remote is None or path.stat().st_size != remote.size:
        return False
    if remote.lfs:
        return bool(remote.lfs.sha256 == sha256_of(path))
    content = path.read_bytes()
    return bool(remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
