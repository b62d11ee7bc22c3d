"""What every answer tells browsers: take nothing for something else, show it nowhere, keep it nowhere."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import unforeseen
from api.guard import is_guarded
from api.settings import ApiSettings

# Pages that load something say so in a policy of their own.
_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers would then call the origin of the dashboard's own POSTs `null`.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityHeaders:
    """Outside of what answers, so that refusals and failures have them too. Headers that a route set stay."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._always = dict(_ALWAYS)
        if settings.hsts_seconds:
            self._always["Strict-Transport-Security"] = f"max-age={settings.hsts_seconds}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def telling(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self._always.items():
                    headers.setdefault(name, value)
                if is_guarded(scope):
                    headers.setdefault("Cache-Control", "no-store")
                    headers.add_vary_header("Authorization")
            await send(message)

        try:
            await self._app(scope, receive, telling)
        except Exception:
            # Starlette's own answer to this would be made outside, without headers.
            if not started:
                await unforeseen()(scope, receive, telling)
            raise
