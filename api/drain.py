"""The rest of a refused body is read and dropped: who is cut off while sending may miss the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.errors import ApiError

_BYTES, _SECONDS = 1 << 30, 10.0


async def drain(request: Request, stream: AsyncIterator[bytes]) -> None:
    if request.headers.get("expect", "").lower() == "100-continue":
        return  # such a client waits for our word before it sends
    left = _BYTES
    with anyio.move_on_after(_SECONDS), suppress(ClientDisconnect):
        async for chunk in stream:
            left -= len(chunk)
            if left < 0:
                break


@asynccontextmanager
async def draining(request: Request, stream: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """Drains the body when what is done here with the request is refused."""
    try:
        yield
    except ApiError:
        await drain(request, stream)
        raise
