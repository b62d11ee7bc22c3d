"""Calls to addresses that strangers name: only where they may lead, looked at when it connects.

A name is resolved once, its addresses are checked, and the connection goes to one of those: no
second look-up can answer otherwise. Redirects are answers like any other and are not followed.

A look-up may take far longer than anybody waits for it, since strangers run name servers too: it is
left behind then, and holds up neither other calls nor the end of the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
import httpcore

from store.addresses import Address, Network, literal, may_be_called
from worker.abandonable import AbandonableCalls

_SECONDS = 10.0
# More than come together in the half minute or so after which a resolver gives up.
_LOOK_UPS = AbandonableCalls("looking up a receiver's name", 100)


class ForbiddenAddress(Exception):
    """The host has no address that may be called."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses, and to those in `allowed`."""

    def __init__(self, allowed: Iterable[Network]) -> None:
        self._allowed = tuple(allowed)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises ForbiddenAddress, TooMany, OSError, httpcore's ConnectError."""
        addresses = await _addresses(host, port)
        if not addresses or not all(each and may_be_called(each, self._allowed) for each in addresses):
            raise ForbiddenAddress("its address is private or reserved (ZSQ_WEBHOOK_ALLOWED_NETWORKS)")
        return await self._backend.connect_tcp(
            str(addresses[0]), port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddress("it is no internet address")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


async def _addresses(host: str, port: int) -> list[Address | None]:
    # As bytes: for text, Python refuses names in its own way before anybody is asked.
    name = host.encode("ascii")
    call = _LOOK_UPS.start(lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
    found = await asyncio.wrap_future(call)
    return [literal(str(sockaddr[0])) for *_, sockaddr in found]


async def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Iterable[Network]) -> int:
    """The answer's status; its body is not read. Raises ForbiddenAddress, TooMany, TimeoutError, OSError,
    httpcore's errors, ValueError for what is no address."""
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _SECONDS)
    with anyio.fail_after(_SECONDS):
        async with (
            httpcore.AsyncConnectionPool(network_backend=GuardedBackend(allowed)) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeouts}
            ) as response,
        ):
            return int(response.status)
