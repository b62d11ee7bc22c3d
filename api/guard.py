"""Stands before every call under /v1: whose key it carries, and whether that owner has not called too often.

Everything else is open: the dashboard's page (which holds no data), its files, /openapi.json, and what
monitors ask (/healthz, /readyz, /metrics).
"""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.access.rates import WINDOW_SECONDS, Window, network_of
from api.deps import LOCAL, Access, Caller, Resources
from api.drain import drain
from api.errors import ApiError, TooMany, Unauthorized, answer
from api.loopback import is_address, is_loopback
from api.settings import ApiSettings
from store.errors import StoreError
from store.key_repository import hash_of
from store.logging import add_log_fields
from store.tables import ApiKey

# What proxies say of whom they speak for.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class Guard:
    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._required = settings.auth_required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_guarded(scope):
            await self._app(scope, receive, send)
            return
        resources: Resources = scope["app"].state.resources
        access = resources.access
        try:
            key = (
                await self._key(scope, access) if self._required or _is_reached_from_outside(scope) else None
            )
            caller = Caller(key.owner, key.id) if key is not None else Caller(LOCAL)
            window = await access.calls.take(caller.owner)
            if window is not None and not window.within:
                raise _too_often(window)
        except (ApiError, StoreError) as error:
            request = Request(scope, receive)
            await drain(request, request.stream())
            await answer(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        add_log_fields(owner=caller.owner)
        await self._app(scope, receive, send if window is None else _telling(send, window))
        if key is not None and access.keyring.use_is_due(key):
            await run_sync(access.keyring.note_use, key)

    async def _key(self, scope: Scope, access: Access) -> ApiKey:
        """Raises Unauthorized, TooMany, Unavailable."""
        digest = _digest(Headers(scope=scope))
        if digest is None:
            raise Unauthorized
        keyring = access.keyring
        if (found := keyring.trusted(digest)) is not None:
            return found
        # One host's guesses cost no look into the database for ever; a key that was good gets one.
        who = network_of((scope.get("client") or ("",))[0])
        failed = await access.failures.look(who)
        if failed is not None and not failed.within and not keyring.is_remembered(digest):
            raise _too_often(failed)
        found = await run_sync(keyring.look_up, digest)
        if found is None:
            await access.failures.take(who)
            raise Unauthorized
        return found


def is_guarded(scope: Scope) -> bool:
    # The router's own reading of the path, so that nothing can slip between the two.
    path = get_route_path(scope)
    return path == "/v1" or path.startswith("/v1/")


def _is_reached_from_outside(scope: Scope) -> bool:
    """Whatever the settings say the server listens on: another server's own `--host` may say otherwise,
    and behind a proxy on this machine every caller is."""
    headers = Headers(scope=scope)
    if any(name in headers for name in _FORWARDED):
        return True
    ends = (scope.get("server"), scope.get("client"))
    return any(end is not None and is_address(end[0]) and not is_loopback(end[0]) for end in ends)


def _digest(headers: Headers) -> str | None:
    given = headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    return hash_of(key.strip()) if scheme.lower() == "bearer" else None


def _too_often(window: Window) -> TooMany:
    metrics.limited("calls")
    return TooMany(
        f"More than {window.limit} in a minute. Try again in {window.reset} s.",
        code="rate_limited",
        retry_after=window.reset,
        headers=_told(window),
    )


def _told(window: Window) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers."""
    return {
        "RateLimit-Policy": f'"minute";q={window.limit};w={WINDOW_SECONDS}',
        "RateLimit": f'"minute";r={window.remaining};t={window.reset}',
    }


def _telling(send: Send, window: Window) -> Send:
    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_told(window))
        await send(message)

    return telling
