"""Around every request: its id, its log line, its measures.

Plain ASGI and outside of everything else, so that also the last resort's 500 carries the id, streams
stay streams, and what is bound here reaches the code inside.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from store.logging import log_context

log = logging.getLogger("api.access")

HEADER = "X-Request-ID"
_SANE = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Asked every few seconds by whoever watches over the service.
_ROUTINE = frozenset({"/healthz", "/readyz", "/metrics"})


def request_id(headers: Headers) -> str:
    """The caller's own, when it is fit for logs and headers; else a new one."""
    given = headers.get(HEADER, "")
    return given if _SANE.fullmatch(given) else secrets.token_hex(16)


class Observed:
    """Logs `GET /v1/jobs/{id} 200` with method, route, status, milliseconds, bytes and the context."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = request_id(Headers(scope=scope))
        with log_context(request_id=id):
            request = _Request(scope, send, id)
            try:
                await self._app(scope, receive, request.send)
            finally:
                request.ended()


class _Request:
    def __init__(self, scope: Scope, send: Send, id: str) -> None:
        self._scope, self._send, self._id = scope, send, id
        self._began = time.perf_counter()
        # Nothing sent: the answer was lost on the way, or never came about.
        self._status = 500
        self._bytes = 0
        self._stream = False
        metrics.began()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self._id
            self._status = message["status"]
            self._stream = headers.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def ended(self) -> None:
        seconds = time.perf_counter() - self._began
        method, route = self._scope["method"], _route(self._scope)
        metrics.answered(method, route, self._status, seconds, stream=self._stream)
        level = logging.DEBUG if route in _ROUTINE and self._status < 400 else logging.INFO
        said: dict[str, Any] = {
            "method": method,
            "route": route or metrics.UNMATCHED,
            "status": self._status,
            "milliseconds": round(seconds * 1000, 1),
            "bytes": self._bytes,
        }
        log.log(level, "%s %s %d", method[:16], said["route"], self._status, extra=said)


def _route(scope: Scope) -> str | None:
    """The template that matched; a mounted folder is one route. Paths themselves hold ids."""
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    mounted = str(scope.get("root_path", "")).removeprefix(str(scope.get("app_root_path", "")))
    return mounted or None
