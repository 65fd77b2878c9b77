"""What every conversation with a Hub shares: one file fetched, answers that would lead astray refused, errors named."""

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import settings
from zoo.errors import IntegrityError, UsageError, WeightsUnavailable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["api", "explain", "fetch_file", "transport_errors"]

# huggingface_hub names files in its cache by these headers, as they are
NAMING_HEADERS = ("ETag", "X-Linked-Etag", "X-Repo-Commit")
ONLINE = "check the connection and HF_ENDPOINT, then try again"


def fetch_file(
    repository: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: Path | str | None = None,
    force: bool = False,
) -> Path:
    """A file of a repository in the cache, downloaded if need be; a download that was cut goes on where it stopped.

    Args:
        repository: `<org>/<name>`.
        filename: Its name there.
        revision: Branch, tag or commit; none for main.
        cache_dir: In place of Hugging Face's cache.
        force: Download it though it is there.

    Raises:
        UsageError: No such revision can exist.
        WeightsUnavailable: It cannot be had.
        IntegrityError: The Hub's answer would name a file outside the cache.
    """
    from huggingface_hub import hf_hub_download

    if revision is not None and (".." in revision or not re.fullmatch(r"\w[\w./-]*", revision)):
        raise UsageError(f"{revision!r} is no revision", hint="give a branch, a tag or a commit")
    _guard_session()
    try:
        path = hf_hub_download(
            repository,
            filename,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force,
            endpoint=settings.hub_endpoint(),
        )
    except transport_errors() as error:
        reason, hint = explain(error, repository, filename)
        raise WeightsUnavailable(f"{repository} could not be fetched: {reason}", hint=hint) from error
    return Path(path)


def api(endpoint: str | None = None, *, token: str | bool | None = None) -> "HfApi":
    """huggingface_hub's client for a Hub.

    Args:
        endpoint: Its address; none for the one of the settings.
        token: What to show it; none for the one huggingface_hub finds, False for none at all.
    """
    from huggingface_hub import HfApi

    _guard_session()
    return HfApi(endpoint=endpoint or settings.hub_endpoint(), token=token, library_name="zoo")


def transport_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when a Hub does not do as asked."""
    from huggingface_hub.errors import HfHubHTTPError

    # the HTTP client's own base class; which client that is differs between versions. A failed upload comes wrapped
    # in a RuntimeError
    return (HfHubHTTPError.__bases__[0], OSError, ValueError, RuntimeError)


def explain(error: Exception, repository: str, filename: str) -> tuple[str, str]:
    """One line and the way out for what huggingface_hub raised, often with the cause wrapped."""
    from huggingface_hub import errors

    answered = isinstance(error, errors.HfHubHTTPError)  # then the error itself says what; else its cause does
    cause = error.__cause__ if not answered and isinstance(error.__cause__, Exception) else error
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
            return f"{repository} has no {filename}", "tell its owner; another revision may have it"
        case errors.HfHubHTTPError():
            return f"the Hub answered {cause.response.status_code}", _way_out(cause.response.status_code)
        case errors.HFValidationError():
            return f"{repository} is no name of a repository", "check ZOO_HUB_ORG"
        case errors.FileMetadataError():
            return "what answers there is no Hub", "check HF_ENDPOINT"
        case OSError() if "Consistency check" in str(cause):
            return "another length arrived than the Hub had named", ONLINE
        case OSError() if cause.filename or cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return f"the cache cannot be written ({cause.strerror})", "make room, or choose another folder (HF_HOME)"
        case _:
            return f"the Hub cannot be reached ({type(cause).__name__})", ONLINE


def _way_out(status: int) -> str:
    if status in (401, 403):
        return "check HF_TOKEN and what it may do; hf auth login sets it"
    if status == 429:
        return "too many requests came from here: try again later, or set HF_TOKEN"
    return "try again later, or another HF_ENDPOINT"


def _guard_session() -> None:
    """Have every answer looked at before huggingface_hub acts on it."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    if _refuse_paths not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_paths]}


def _refuse_paths(response: Any) -> None:
    for header in NAMING_HEADERS:
        value = response.headers.get(header, "").removeprefix("W/").strip('"')
        if re.search(r"[/\\:\0]", value) or set(value) == {"."}:
            raise IntegrityError(
                f"{response.request.url.host} sends the {header} {value[:60]!r}, which would be a path",
                hint="nothing was written; do not use this endpoint",
            )
