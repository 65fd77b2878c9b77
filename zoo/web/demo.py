"""A page with a tab a task, for people: the bundled networks on their own pictures, or on samples that come along.

The page is three files of ours and `zoo.web.tabs`, over the server that `zoo serve` uses: nothing is fetched from
anywhere, by the page or for it, and what is sent is forgotten once it is answered.
"""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

import zoo
from zoo.data.images import Encoded
from zoo.errors import InputError, ZooError
from zoo.web.api import ServeLimits
from zoo.web.middleware import Limits
from zoo.web.samples import Samples
from zoo.web.tabs import Answer, Given, Tab, tabs

__all__ = ["build_demo", "to_json", "values_of"]

PAGE = Path(__file__).parent / "page"
KINDS = {"demo.js": "text/javascript", "demo.css": "text/css"}
# the page has what it needs: nothing else may be loaded, whatever an answer holds
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def build_demo(folder: Path, limits: ServeLimits, device: str = "auto") -> FastAPI:
    """The demo.

    Args:
        folder: For samples and what they are searched by; empty.
        limits: What a question may cost; `queue` counts questions that wait or run.
        device: "auto", or a torch device.
    """
    samples = Samples(folder)
    known = {tab.name: tab for tab in tabs(samples, device)}
    worker = ThreadPoolExecutor(1, "demo")  # networks take turns: each has all cores
    inside = 0

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shutdown(cancel_futures=True)

    app = FastAPI(title="zoo demo", version=zoo.__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Limits, max_bytes=limits.max_bytes, seconds=limits.seconds)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _fault(error.detail, None, error.status_code, error.headers)

    @app.exception_handler(ZooError)
    async def unusable(request: Request, error: ZooError) -> JSONResponse:
        return _fault(error.message, error.hint, 422)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _fault(f"a fault of zoo: {type(error).__name__}", "the terminal that runs zoo demo says more", 500)

    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html", headers=HEADERS)

    @app.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in KINDS:
            raise HTTPException(404, "there is no such page")
        return FileResponse(PAGE / name, media_type=KINDS[name], headers=HEADERS)

    @app.get("/tabs")
    async def described() -> Any:
        return JSONResponse({"version": zoo.__version__, "tabs": [_described(tab) for tab in known.values()]})

    @app.get("/samples/{name}")
    async def sample(name: str) -> Response:
        try:
            path = await asyncio.get_running_loop().run_in_executor(worker, samples.path, name)
        except KeyError:
            raise HTTPException(404, "there is no such sample") from None
        return FileResponse(path, headers=HEADERS)

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok"}

    @app.post("/ask/{name}")
    async def ask(name: str, request: Request) -> Response:
        nonlocal inside
        if name not in known:
            raise HTTPException(404, "there is no such tab")
        if inside >= limits.queue:
            raise HTTPException(429, "too many questions are waiting; ask again in a moment", {"Retry-After": "2"})
        inside += 1
        try:
            tab = known[name]
            async with request.form(max_files=4, max_fields=16) as form:
                given = await values_of(tab, form)
            start = time.perf_counter()
            async with asyncio.timeout(limits.seconds):
                answer = await asyncio.get_running_loop().run_in_executor(worker, _answered, tab, given)
        except TimeoutError:
            raise HTTPException(503, f"no answer after {limits.seconds:g} s", {"Retry-After": "5"}) from None
        finally:
            inside -= 1
        return JSONResponse({**answer, "seconds": round(time.perf_counter() - start, 2)})

    return app


async def values_of(tab: Tab, form: FormData) -> Given:
    """What a form holds, field by field; files as `Encoded`.

    Raises:
        InputError: Something is missing, or cannot be.
    """
    given: dict[str, Any] = {}
    for field in tab.fields:
        found = form.get(field.name)
        if not field.is_file:
            given[field.name] = field.read(found if isinstance(found, str) else None)
        elif isinstance(found, UploadFile) and found.size:
            given[field.name] = Encoded(Path(found.filename or field.kind).name, await found.read())
        else:
            raise InputError(f"no {field.kind} was given", hint="choose one, or press an example")
    return given


def to_json(answer: Answer) -> dict[str, Any]:
    """An answer as the page takes it: plain JSON types, pictures and videos inside."""
    return {
        "headline": answer.headline,
        "bars": [{"label": label, "share": round(float(share), 6)} for label, share in answer.bars],
        "compare": [_address(image) for image in answer.compare or ()],
        "figures": [
            {
                "caption": figure.caption,
                "kind": "video" if isinstance(figure.content, bytes) else "picture",
                "source": _address(figure.content),
                "right": figure.is_right,
            }
            for figure in answer.figures
        ],
        "note": answer.note,
    }


def _answered(tab: Tab, given: Given) -> dict[str, Any]:
    return to_json(tab.answer(given))


def _described(tab: Tab) -> dict[str, Any]:
    fields, examples = ([asdict(one) for one in part] for part in (tab.fields, tab.examples))
    return {"name": tab.name, "title": tab.title, "about": tab.about, "fields": fields, "examples": examples}


def _fault(message: str, hint: str | None, status: int, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "hint": hint}}, status, headers)


def _address(content: Image.Image | bytes) -> str:
    """A data address of a picture, as PNG, or of an .mp4."""
    kind = "video/mp4"
    if not isinstance(content, bytes):
        held = io.BytesIO()
        content.save(held, "PNG", compress_level=3)
        content, kind = held.getvalue(), "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
