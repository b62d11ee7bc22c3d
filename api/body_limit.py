"""Bodies that are read whole may not be large; uploads stream, with limits of their own. None may stall."""

from __future__ import annotations

import time
from typing import NoReturn

import anyio
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.drain import drain

STREAMED = frozenset({"/v1/checkpoints", "/v1/datasets", "/v1/quantize", "/v1/uploads"})
STREAMED_BELOW = "/v1/uploads/"
MAX_BYTES = 1 << 20


class BodyLimit:
    """`seconds`: for how long a streamed body may pause, and by when another one must be there whole."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        streamed = _streams(get_route_path(scope))
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced) > MAX_BYTES and not streamed
        deadline = time.monotonic() + self._seconds
        received = 0
        complete = False

        async def limited() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the client's going away, for which a stream may wait long
                return await receive()
            if too_large:
                await _refuse(scope, receive)
            left = self._seconds if streamed else deadline - time.monotonic()
            try:
                with anyio.fail_after(max(0.0, left)):
                    message = await receive()
            except TimeoutError:
                detail = f"The body did not come within {self._seconds:g} s."
                raise HTTPException(408, detail, headers={"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > MAX_BYTES and not streamed:
                await _refuse(scope, None if complete else receive)
            return message

        await self._app(scope, limited, send)


def _streams(path: str) -> bool:
    return path in STREAMED or path.startswith(STREAMED_BELOW)


async def _refuse(scope: Scope, rest: Receive | None) -> NoReturn:
    if rest is not None:
        request = Request(scope, rest)
        await drain(request, request.stream())
    # FastAPI lets only this class through while it reads a body.
    raise HTTPException(413, f"The body may hold {MAX_BYTES} bytes at most.")
