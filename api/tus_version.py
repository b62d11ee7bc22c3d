"""What tus asks of every answer: the protocol's version, on refusals and failures too."""

from __future__ import annotations

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.services import tus

PREFIX = "/v1/uploads"


class TusVersion:
    """Outside of whatever else answers for the routes under `PREFIX`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        spoken = scope["type"] == "http" and f"{get_route_path(scope)}/".startswith(f"{PREFIX}/")
        await self._app(scope, receive, _telling(send) if spoken else send)


def _telling(send: Send) -> Send:
    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Tus-Resumable"] = tus.VERSION
        await send(message)

    return telling
