"""What other people's pages in a user's browser may not do to this API.

A page can send the browser to a server on the user's own machine, and can make a name of its own point
there (DNS rebinding). So, without keys, the Host header must be loopback's, and what changes something must
not come from another origin. With keys there is nothing that a browser would send along by itself.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Forbidden, answer
from api.loopback import is_loopback
from api.settings import ApiSettings

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Probes name the server as they like, and learn nothing that is anyone's.
_PROBES = frozenset({"/healthz", "/readyz"})


class OwnPages:
    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._open = not settings.auth_required
        self._hosts = settings.allowed_hosts
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await answer(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Forbidden | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        checked = (self._open or self._hosts) and scope["path"] not in _PROBES
        if checked and not self._is_ours(_name(host)):
            return Forbidden(
                "The server does not go by this name. ZSQ_ALLOWED_HOSTS lists those that it has.",
                code="foreign_host",
            )
        if self._open and scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if origin is not None and not self._is_own_page(origin.lower(), host.lower()):
                return Forbidden(
                    "Pages from elsewhere may change nothing here. ZSQ_CORS_ORIGINS lists those that may.",
                    code="foreign_origin",
                )
        return None

    def _is_ours(self, name: str) -> bool:
        if is_loopback(name):
            return True
        return any(name.endswith(each[1:]) if each.startswith("*.") else name == each for each in self._hosts)

    def _is_own_page(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin.partition("://")[2] == host != ""


def _name(host: str) -> str:
    """Without the port; empty for what no host can be."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
