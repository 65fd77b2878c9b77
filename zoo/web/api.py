"""A network behind HTTP: pictures in, results out, within limits, with health and metrics.

FastAPI and uvicorn speak HTTP; the batches are ours (see benchmarks/scale.md for how fast that is). The
server fetches nothing: a request holds its pictures, so that no address in it can lead anywhere.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import zoo
from zoo import settings
from zoo.data.images import Encoded
from zoo.errors import UsageError
from zoo.tasks.classify import Classify
from zoo.tasks.pipeline import Pipeline
from zoo.web.batching import Batcher, Busy, Stopping
from zoo.web.middleware import Limits, Measured
from zoo.web.schema import ANSWERS, Health, Model, Refused

__all__ = ["ServeLimits", "build_app", "serve"]

DAY = 86_400  # seconds


@dataclass(frozen=True)
class ServeLimits:
    """What a request may cost.

    Attributes:
        max_bytes: Of a request's body.
        max_pictures: Of a request.
        queue: Pictures inside at once; more are refused with 429.
        seconds: For a body to arrive (408), and for its answer (503); up to a day.
    """

    max_bytes: int = 16 * 2**20
    max_pictures: int = 64
    queue: int = 256
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= DAY:
            raise UsageError(f"a time limit of {self.seconds:g} s", hint=f"up to a day, --timeout {DAY}")


class _Metrics:
    """What /metrics shows, in Prometheus' terms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("zoo_requests", "Requests by status.", ["status"], registry=self.registry)
        self.pictures = Counter("zoo_pictures", "Pictures by outcome.", ["outcome"], registry=self.registry)
        self.inside = Gauge("zoo_pictures_inside", "Pictures decoding, waiting or running.", registry=self.registry)
        self.seconds = Histogram("zoo_request_seconds", "From a request's head to its answer.", registry=self.registry)
        sizes = [2**k for k in range(9)]
        self.batches = Histogram("zoo_batch_size", "Pictures taken at once.", registry=self.registry, buckets=sizes)

    def request(self, path: str, status: int, seconds: float) -> None:
        if path.startswith("/v1/"):
            self.requests.labels(status).inc()
            self.seconds.observe(seconds)


def build_app(pipe: Pipeline[Any], limits: ServeLimits | None = None) -> FastAPI:
    """The server of a pipeline.

    Args:
        pipe: What answers; its batch size is the largest batch.
        limits: What a request may cost.
    """
    limits = limits or ServeLimits()
    task = type(pipe.task).__name__.lower()
    metrics = _Metrics()
    batcher: Batcher

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher
        batcher = Batcher(pipe, limits.queue, metrics.batches.observe)
        metrics.inside.set_function(lambda: batcher.inside)
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title=f"zoo: {pipe.card.name}", version=zoo.__version__, lifespan=life, description=pipe.card.summary)
    app.add_middleware(Limits, max_bytes=limits.max_bytes, seconds=limits.seconds)
    app.add_middleware(Measured, tell=metrics.request)

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "; ".join(_fault(entry) for entry in error.errors()[:3])}, 422)

    @app.get("/health", tags=["operations"], responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Whether pictures are taken: 200, or 503 while the server stops."""
        response.status_code = 200 if batcher.is_open else 503
        return Health(status="ok" if batcher.is_open else "stopping")

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def show_metrics() -> PlainTextResponse:
        """Counts and times in Prometheus' text form."""
        return PlainTextResponse(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", tags=["model"])
    async def model() -> Model:
        """What is served, and within which limits."""
        return Model(
            name=pipe.card.name,
            task=task,
            summary=pipe.card.summary,
            license=pipe.card.license,
            input_size=list(pipe.card.input.size),
            labels=_labels(pipe),
            max_bytes=limits.max_bytes,
            max_pictures=limits.max_pictures,
            max_pixels=settings.max_pixels(),
        )

    reasons = {
        400: "The form cannot be read.",
        408: "The body did not arrive in time.",
        413: "The body is too long, or holds too many pictures.",
        429: "Too many pictures are waiting; Retry-After says when to ask again.",
        503: "Not answered in time, or the server stops.",
    }
    documented: dict[int | str, dict[str, Any]] = {
        code: {"model": Refused, "description": text} for code, text in reasons.items()
    }
    documented[422] = {
        "model": ANSWERS[task] | Refused,
        "description": "No picture was sent, or none could be used: then the results say why.",
    }

    @app.post(f"/v1/{task}", tags=["model"], response_model=ANSWERS[task], responses=documented)
    async def answer(images: Annotated[list[UploadFile], File(description="Pictures.", min_length=1)]) -> JSONResponse:
        """Results of one picture or several, in order; 422 where not one of them could be used."""
        if len(images) > limits.max_pictures:
            raise HTTPException(413, f"{len(images)} pictures, where {limits.max_pictures} are allowed")
        items = [Encoded(image.filename or "picture", await image.read()) for image in images]
        try:
            async with asyncio.timeout(limits.seconds):
                results = await batcher.answer(items)
        except Busy:
            raise HTTPException(429, "too many pictures are waiting", {"Retry-After": "1"}) from None
        except Stopping:
            raise HTTPException(503, "the server stops", {"Retry-After": "5"}) from None
        except TimeoutError:
            raise HTTPException(503, f"no answer after {limits.seconds:g} s", {"Retry-After": "5"}) from None
        good = sum(result.error is None for result in results)
        metrics.pictures.labels("answered").inc(good)
        metrics.pictures.labels("refused").inc(len(results) - good)
        found = {"model": pipe.card.name, "results": [result.to_dict() for result in results]}
        return JSONResponse(found, 200 if good else 422)

    return app


def serve(app: FastAPI, host: str, port: int, limits: ServeLimits, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are inside are answered first.

    Args:
        app: From `build_app`.
        host: Address to listen on.
        port: 0 takes a free one.
        limits: As the app's.
        ready: Called with the address once it listens.

    Raises:
        OSError: The port is taken, or not ours to take.
    """
    import logging
    import signal
    import socket

    import uvicorn

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # as uvicorn below
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listening:
        config = uvicorn.Config(
            app,
            log_level="error",  # anyone can send nonsense; that is nothing to write about
            access_log=False,
            limit_concurrency=4 * limits.queue,  # connections; 503 beyond
            timeout_graceful_shutdown=int(limits.seconds) + 1,
            h11_max_incomplete_event_size=2**16,
        )
        # uvicorn hands SIGTERM on once it has stopped in good order; that is no reason to die of it
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
            uvicorn.Server(config).run([listening])
        finally:
            signal.signal(signal.SIGTERM, before)


def _labels(pipe: Pipeline[Any]) -> list[str] | None:
    """Names of the classes as the answers have them; none where these only number them."""
    names = list(pipe.task.names) if isinstance(pipe.task, Classify) else []
    return names if names and len(names) == getattr(pipe.model, "num_classes", len(names)) else None


def _fault(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{where}: {entry['msg']}"
