"""Fetching one file over HTTP, with a limit on everything: size, time, redirects."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO, Any

from zoo.errors import InputError

__all__ = ["fetch", "is_url"]

MAX_BYTES = 64 * 2**20
SECONDS = 30.0  # for the whole transfer
SILENCE = 10.0  # between two pieces of it
REDIRECTS = 5


def is_url(text: str) -> bool:
    """Whether a source is fetched rather than opened; `file:` and `ftp:` are not."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetch(url: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS, silence: float = SILENCE) -> bytes:
    """The body of an http or https address.

    Args:
        url: The address; at most five redirects are followed, and only to http or https.
        max_bytes: Largest body.
        seconds: Longest transfer.
        silence: Longest wait for the next piece.

    Raises:
        InputError: No answer, an answer other than 2xx, or more than a limit.
    """
    deadline = time.monotonic() + seconds
    request = urllib.request.Request(url, headers={"User-Agent": "zoo", "Accept": "image/*, */*;q=0.5"})
    try:
        with _opener().open(request, timeout=min(silence, seconds)) as response:
            return _body(response, url, max_bytes, deadline, seconds)
    except urllib.error.HTTPError as error:
        with error:  # it holds the open connection
            raise InputError(f"{url}: {_answer(error)}", hint=_advice(error.code)) from None
    except TimeoutError:
        raise InputError(
            f"{url}: no answer within {silence:g} s", hint="fetch the file first and give its path"
        ) from None
    except urllib.error.URLError as error:
        reason = "no answer in time" if isinstance(error.reason, TimeoutError) else error.reason
        raise InputError(f"{url}: {reason}", hint="check the address and the network") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address with a bad port or host
        raise InputError(f"{url}: {error or type(error).__name__}", hint="check the address and the network") from None


def _body(response: Any, url: str, max_bytes: int, deadline: float, seconds: float) -> bytes:
    length = response.headers.get("Content-Length", "")
    expected = int(length) if length.isdigit() else None
    too_large = InputError(f"{url}: more than {max_bytes // 2**20} MiB", hint="fetch the file first and give its path")
    if expected is not None and expected > max_bytes:
        raise too_large
    parts, size = [], 0
    while part := response.read1(2**16):  # read1 comes back after one packet, so a slow drip meets the deadline
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise too_large
        if time.monotonic() > deadline:
            raise InputError(f"{url}: not there after {seconds:g} s", hint="fetch the file first and give its path")
    if expected is not None and size < expected:
        raise InputError(f"{url}: broke off after {size} of {expected} bytes", hint="try again")
    return b"".join(parts)


def _answer(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return f"redirects more than {REDIRECTS} times, in a circle, or away from http"
    return f"the server answered {error.code} {error.reason}"


def _advice(code: int) -> str:
    if code in (401, 403):
        return "the address needs a login; fetch the file with a browser and give its path"
    return "check the address" if code < 500 else "the server is at fault; try again later"


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not is_url(newurl):
            fp.close()
            raise InputError(f"{req.full_url}: redirects to {newurl}", hint="only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows http and https alone; urllib's own would read `file:` addresses as well."""
    opener = urllib.request.OpenerDirector()
    handlers: tuple[Callable[[], urllib.request.BaseHandler], ...] = (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    )
    for handler in handlers:
        opener.add_handler(handler())
    return opener
