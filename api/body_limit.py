"""Bodies that are read whole may not be large; uploads stream and have a limit of their own."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STREAMED = frozenset({"/v1/checkpoints", "/v1/datasets", "/v1/quantize", "/v1/uploads"})
STREAMED_BELOW = "/v1/uploads/"
MAX_BYTES = 1 << 20


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _streams(scope["path"]):
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES:
                # FastAPI lets only this class through while it reads a body.
                raise HTTPException(413, f"The body may hold {MAX_BYTES} bytes at most.")
            return message

        await self._app(scope, limited, send)


def _streams(path: str) -> bool:
    return path in STREAMED or path.startswith(STREAMED_BELOW)
