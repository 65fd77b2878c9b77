"""What surrounds every request: limits on its body, and how long it took with which outcome."""

import asyncio
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Limits", "Measured"]


class Limits:
    """Refuses bodies that are too long with 413 and too slow ones with 408, without keeping what came.

    Args:
        app: Behind it.
        max_bytes: Longest body.
        seconds: Longest time from the head to the end of the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        length, whole = 0, False
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")

        async def limited() -> Message:
            nonlocal length, whole
            if announced.isdigit() and int(announced) > self.max_bytes:
                raise self._too_long()
            if whole:
                return await receive()  # waits for the client to go away, as long as the answer takes
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body was not there after {self.seconds:g} s") from None
            length += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if length > self.max_bytes:
                raise self._too_long()
            return message

        await self.app(scope, limited, send)

    def _too_long(self) -> HTTPException:
        return HTTPException(413, f"the body has more than {self.max_bytes} bytes")


class Measured:
    """Tells path, status and seconds of each request.

    Args:
        app: Behind it.
        tell: What is told.
    """

    def __init__(self, app: ASGIApp, tell: Callable[[str, int, float], None]) -> None:
        self.app = app
        self.tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.tell(scope["path"], status, time.perf_counter() - start)
