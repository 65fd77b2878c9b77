"""A small Hub on the loopback: HEAD and GET of resolve, with ETag, commit and ranges, and faults on demand."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit_of(repository: str) -> str:
    """The one commit of a repository."""
    return hashlib.sha1(repository.encode()).hexdigest()


@dataclass
class Hub:
    """What the server holds, does wrong, and was asked.

    Attributes:
        files: "<org>/<name>/<file>" to content.
        refusal: Status and X-Error-Code for every request; none for proper answers.
        cut: Bytes after which the next GET breaks off, once.
        lie: Content sent in place of the file's, of the same length, so often.
        requests: Method, path and Range of what came in.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    cut: int | None = None
    lies: int = 0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def gets(self) -> list[str | None]:
        """The ranges of the file downloads so far."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            wanted = self.headers.get("Range")
            hub.requests.append((self.command, self.path, wanted))
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            content = hub.files.get(f"{found[1]}/{found[3]}") if found else None
            if hub.refusal:
                return self.refuse(*hub.refusal)
            if content is None:
                known = found and any(key.startswith(f"{found[1]}/") for key in hub.files)
                return self.refuse(404, "EntryNotFound" if known else "RepoNotFound")
            if found[2] not in ("main", commit_of(found[1])):
                return self.refuse(404, "RevisionNotFound")
            etag = hashlib.sha256(content).hexdigest()
            begin = int(re.fullmatch(r"bytes=(\d+)-.*", wanted)[1]) if wanted else 0
            if self.command == "GET" and hub.lies:
                hub.lies -= 1
                content = bytes(255 - byte for byte in content)
            body = content[begin:]
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", commit_of(found[1]))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                if hub.cut is not None:
                    body, hub.cut = body[: hub.cut], None
                    self.close_connection = True
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing: pytest's output is for results."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
