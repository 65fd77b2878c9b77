"""A Hub on the loopback, as huggingface_hub 2.4 asks for it: download with redirects and ranges, publish, and faults.

Small files are git blobs and answered directly. Large ones (LFS) are redirected to a storage under another host name,
as on the real Hub, so that what belongs to the Hub alone, such as a token, can be seen not to go there.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Files = dict[str, bytes]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, content_length: int) -> bool:
    """Which files the Hub stores apart from git."""
    return path.endswith(".safetensors") or content_length > 10_000_000


@dataclass
class Repository:
    """Commits in order, each with all its files; the last one is main.

    Attributes:
        name: `<org>/<name>`.
        tags: Further names of commits.
        private: Answers 401 without the token.
    """

    name: str
    commits: list[tuple[str, Files]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    @property
    def head(self) -> str | None:
        return self.commits[-1][0] if self.commits else None

    @property
    def files(self) -> Files:
        return self.commits[-1][1] if self.commits else {}

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        wanted = self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == wanted), None)

    def commit(self, files: Files) -> str:
        listing = "".join(f"{path} {git_sha1(content)}\n" for path, content in sorted(files.items()))
        oid = hashlib.sha1(f"{self.name} {self.head} {listing}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid


@dataclass
class Fault:
    """Something that goes wrong with requests of one sort.

    Attributes:
        kind: "status" refuses; "cut" breaks off after some bytes; "stall" sends nothing more; "drip" sends slowly;
            "short" and "long" promise another length than is sent; "lie" sends other bytes of the same length;
            "corrupt" stores other bytes than were committed; "headers" sends further ones, others, or (None) fewer.
        on: What the method and path have to match, such as "GET .*/storage/".
        times: Requests still to be hit.
        status: For "status", with `code` as X-Error-Code.
        after: Bytes until it happens.
        headers: For "headers".
    """

    kind: str
    on: str
    times: int = 1
    status: int = 500
    code: str = ""
    after: int = 0
    headers: dict[str, str | None] = field(default_factory=dict)


@dataclass
class Hub:
    """What the server holds, does wrong, and was asked.

    Attributes:
        url: Address of the Hub.
        storage: Address of the large files; the same server under another host name.
        repositories: By "<org>/<name>".
        moved: Old to new names of repositories.
        objects: Large files by their sha256.
        token: What writing and private repositories need.
        part_size: Bytes of a part, for uploads in parts; None for whole uploads.
        faults: What will go wrong, the first fitting one first.
        injected: Kinds of the faults that happened.
        requests: Method, path, Range and Authorization of what came in.
    """

    url: str = ""
    storage: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    token: str = "hf_loopback"
    part_size: int | None = None
    faults: list[Fault] = field(default_factory=list)
    injected: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, repository: str, files: Files) -> str:
        """A commit with these files added or changed; returns its id."""
        there = self.repositories.setdefault(repository, Repository(repository))
        return there.commit({**there.files, **files})

    def fail(self, kind: str, on: str, times: int = 1, **how: object) -> None:
        """Let the next `times` requests that match `on` go wrong."""
        self.faults.append(Fault(kind, on, times, **how))

    def fault(self, request: str) -> Fault | None:
        """What goes wrong with this request."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.match(fault.on, request):
                    fault.times -= 1
                    self.injected.append(fault.kind)
                    return fault
        return None

    def asked(self, pattern: str) -> list[str]:
        """Requests so far that match, as "METHOD path"."""
        return [f"{method} {path}" for method, path, *_ in self.requests if re.search(pattern, f"{method} {path}")]

    def ranges(self) -> list[str | None]:
        """Ranges of the downloads of large files so far."""
        return [wanted for method, path, wanted, _ in self.requests if method == "GET" and "/storage/" in path]


class Handler(BaseHTTPRequestHandler):
    """Answers for `hub`."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def do_PUT(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def route(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append(
            (self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        self.received = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.trouble = self.hub.fault(f"{self.command} {self.path}")
        if self.trouble and self.trouble.kind == "status":
            return self.refuse(self.trouble.status, self.trouble.code)
        for pattern, answer in ROUTES:
            found = re.fullmatch(pattern, f"{'GET' if self.command == 'HEAD' else self.command} {url.path}")
            if found:
                return answer(self, *map(unquote, found.groups()))
        self.refuse(404, "")

    # reading

    def repository(self, name: str, *, writing: bool = False) -> Repository | None:
        """The repository, or an answer that says why not and None."""
        there = self.hub.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if writing and not allowed:
            self.refuse(401, "")
        elif there is None or (there.private and not allowed):
            self.refuse(404 if there is None and allowed else 401, "RepoNotFound")
        else:
            return there
        return None

    def revision(self, name: str, revision: str) -> tuple[str, Files] | None:
        there = self.repository(name)
        found = there.at(revision) if there else None
        if there and found is None:
            self.refuse(404, "RevisionNotFound")
        return found

    def resolve(self, name: str, revision: str, path: str) -> None:
        if name in self.hub.moved:
            target = f"/{self.hub.moved[name]}/resolve/{revision}/{path}"  # relative, which the client follows
            return self.send(307, b"", {"Location": target})
        found = self.revision(name, revision)
        if found is None:
            return None
        commit, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = files[path]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_lfs(path, len(content)):
            oid = sha256(content)
            self.hub.objects[oid] = content
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            return self.send(302, b"Found", {**headers, **linked, "Location": f"{self.hub.storage}/storage/{oid}"})
        return self.send_content(content, {**headers, "ETag": f'"{git_sha1(content)}"'})

    def stored(self, oid: str) -> None:
        content = self.hub.objects.get(oid)
        if content is None:
            return self.refuse(403, "")
        return self.send_content(content, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def info(self, name: str, revision: str = "main") -> None:
        found = self.revision(name, revision)
        if found:
            siblings = [{"rfilename": path} for path in found[1]]
            self.answer({"_id": "0", "id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        found = self.revision(name, revision)
        if found:
            self.answer([entry_of(path, content) for path, content in sorted(found[1].items())])

    def paths_info(self, name: str, revision: str) -> None:
        found = self.revision(name, revision)
        if found:
            wanted = parse_qs(self.received.decode())["paths"]
            self.answer([entry_of(path, content) for path, content in sorted(found[1].items()) if path in wanted])

    # writing

    def create(self) -> None:
        wanted = json.loads(self.received)
        name = f"{wanted['organization']}/{wanted['name']}"
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.refuse(401, "")
        if name in self.hub.repositories:
            return self.answer({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository(name, private=bool(wanted.get("private")))
        return self.answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def validate_yaml(self) -> None:
        """The Hub's checks that a generated card can fail."""
        text = json.loads(self.received)["content"]
        front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        facts = yaml.safe_load(front[1]) if front else None
        errors = [] if isinstance(facts, dict) else ["no metadata"]
        for key in ("license", "library_name", "pipeline_tag"):
            if isinstance(facts, dict) and not isinstance(facts.get(key, ""), str):
                errors.append(f"{key} must be a string")
        for model in (facts or {}).get("model-index", []):
            for result in model["results"]:
                if not {"type", "name"} <= set(result["dataset"]) or "type" not in result["task"]:
                    errors.append("model-index: a result needs a task and a data set")
                if not all("value" in metric and "type" in metric for metric in result["metrics"]):
                    errors.append("model-index: a metric needs a type and a value")
        self.answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        there = self.repository(name, writing=True)
        if there is None:
            return
        answers = []
        for file in json.loads(self.received)["files"]:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
            lfs = is_lfs(file["path"], file["size"])
            content = there.files.get(file["path"])
            oid = None if content is None else sha256(content) if lfs else git_sha1(content)
            mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            answers.append({"path": file["path"], **mode})
        self.answer({"files": answers})

    def batch(self, name: str) -> None:
        if self.repository(name, writing=True) is None:
            return
        objects = []
        for wanted in json.loads(self.received)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload: dict[str, object] = {"href": f"{self.hub.storage}/upload/{oid}"}
                if self.hub.part_size:
                    parts = -(-size // self.hub.part_size)
                    addresses = {str(i + 1): f"{self.hub.storage}/upload/{oid}?part={i + 1}" for i in range(parts)}
                    upload = {
                        "href": f"{self.hub.url}/{name}.git/info/lfs/complete/{oid}",
                        "header": {"chunk_size": str(self.hub.part_size), **addresses},
                    }
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/objects/verify"}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self.answer({"transfer": "multipart" if self.hub.part_size else "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        part = self.query.get("part")
        if part:
            self.hub.objects[f"{oid}/{part[0]}"] = self.received
            return self.send(200, b"", {"ETag": f'"{hashlib.md5(self.received).hexdigest()}"'})
        if sha256(self.received) != oid:
            return self.refuse(400, "")
        self.hub.objects[oid] = self.received
        return self.send(200, b"", {"ETag": f'"{oid}"'})

    def complete(self, name: str, oid: str) -> None:
        parts = json.loads(self.received)["parts"]
        content = b"".join(self.hub.objects.pop(f"{oid}/{part['partNumber']}") for part in parts)
        if sha256(content) != oid:
            return self.refuse(400, "")
        self.hub.objects[oid] = content
        return self.answer({})

    def verify(self, name: str) -> None:
        wanted = json.loads(self.received)
        stored = self.hub.objects.get(wanted["oid"])
        if stored is None or len(stored) != wanted["size"]:
            return self.refuse(404, "")
        return self.answer({"message": "ok"})

    def commit(self, name: str, revision: str) -> None:
        there = self.repository(name, writing=True)
        if there is None:
            return None
        files = dict(there.files)
        for line in self.received.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                stored = self.hub.objects.get(value["oid"])
                if stored is None or len(stored) != value["size"]:
                    return self.refuse(400, "")
                files[value["path"]] = stored[::-1] if self.trouble and self.trouble.kind == "corrupt" else stored
            elif key == "deletedFile":
                del files[value["path"]]
        oid = there.commit(files)
        return self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    # sending

    def answer(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": "as the test asked for"} if code else {}
        self.send(status, b"", {**named, **(headers or {})})

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file, or the part of it that was asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return self.send(200, content, headers)
        begin, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        if begin >= len(content):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        span = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        return self.send(206, content[begin : end + 1], {**headers, **span})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        trouble = self.trouble or Fault("", "")
        length = len(body) + {"short": -1, "long": 1}.get(trouble.kind, 0)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length), **trouble.headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if trouble.kind == "lie":
            body = bytes(255 - byte for byte in body)
        if trouble.kind in ("cut", "long"):
            body = body[: trouble.after] if trouble.kind == "cut" else body
            self.close_connection = True
        try:
            if trouble.kind in ("stall", "drip"):
                self.send_slowly(body, trouble)
            else:
                self.wfile.write(body[:length])
        except OSError:  # the client gave up
            self.close_connection = True

    def send_slowly(self, body: bytes, trouble: Fault) -> None:
        if trouble.kind == "stall":
            self.wfile.write(body[: trouble.after])
            time.sleep(4)  # more than the tests' HF_HUB_DOWNLOAD_TIMEOUT
            self.close_connection = True
            return
        step = max(1, len(body) // 20)
        for begin in range(0, len(body), step):
            self.wfile.write(body[begin : begin + step])
            time.sleep(0.1)

    def log_message(self, *args: object) -> None:
        """Nothing: pytest's output is for results."""


NAME, REST = "([^/]+/[^/]+)", "([^/]+)"
ROUTES = (
    (rf"GET /{NAME}/resolve/{REST}/(.+)", Handler.resolve),
    (rf"GET /storage/{REST}", Handler.stored),
    (rf"GET /api/models/{NAME}", Handler.info),
    (rf"GET /api/models/{NAME}/revision/{REST}", Handler.info),
    (rf"GET /api/models/{NAME}/tree/{REST}", Handler.tree),
    (rf"POST /api/models/{NAME}/paths-info/{REST}", Handler.paths_info),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate_yaml),
    (rf"POST /api/models/{NAME}/preupload/{REST}", Handler.preupload),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (rf"PUT /upload/{REST}", Handler.upload),
    (rf"POST /{NAME}\.git/info/lfs/complete/{REST}", Handler.complete),
    (rf"POST /{NAME}\.git/info/lfs/objects/verify", Handler.verify),
    (rf"POST /api/models/{NAME}/commit/{REST}", Handler.commit),
)


def entry_of(path: str, content: bytes) -> dict[str, object]:
    """A file in a listing."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if is_lfs(path, len(content)):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    port = server.server_address[1]
    hub.url, hub.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
