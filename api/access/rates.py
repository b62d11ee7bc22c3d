"""How many calls in any minute: moving windows, counted for all API processes where that can be.

The counts stand in the broker when it is Valkey or Redis, else, and while it is away, in this process.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

import anyio
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60
_PREFIX = "zsq.rate"
_ANSWER_SECONDS = 0.5
_AWAY_SECONDS = 5.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Window:
    """`reset` is in seconds: when the oldest call in the window leaves it."""

    within: bool
    limit: int
    remaining: int
    reset: int


class Rate:
    """One kind of event, so many times a minute for each `who`; none are counted at a limit of 0."""

    def __init__(self, name: str, per_minute: int, counters: Counters) -> None:
        self.per_minute = per_minute
        self._name = name
        self._counters = counters
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None

    async def take(self, who: str) -> Window | None:
        """Counts one event, if there is room for it. None without a limit."""
        item = self._item
        if item is None:
            return None

        async def taken(limiter: MovingWindowRateLimiter) -> Window:
            within = await limiter.hit(item, self._name, who)
            return await self._window(limiter, item, who, within)

        return await self._counters.ask(taken)

    async def look(self, who: str) -> Window | None:
        """The same without counting: whether another one would be within the limit."""
        item = self._item
        if item is None:
            return None

        async def looked(limiter: MovingWindowRateLimiter) -> Window:
            return await self._window(limiter, item, who, None)

        return await self._counters.ask(looked)

    async def _window(
        self, limiter: MovingWindowRateLimiter, item: RateLimitItemPerMinute, who: str, within: bool | None
    ) -> Window:
        stats = await limiter.get_window_stats(item, self._name, who)
        remaining = max(0, stats.remaining)
        reset = min(WINDOW_SECONDS, max(1, math.ceil(stats.reset_time - time.time())))
        return Window(remaining > 0 if within is None else within, item.amount, remaining, reset)


class Counters:
    """Where windows are kept. A broker that fails is left alone for a few seconds."""

    def __init__(self, broker_url: str) -> None:
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._storage = _shared_storage(broker_url)
        self._shared = MovingWindowRateLimiter(self._storage) if self._storage is not None else None
        self._away_until = 0.0

    async def ask(self, question: Callable[[MovingWindowRateLimiter], Awaitable[Answer]]) -> Answer:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                with anyio.fail_after(_ANSWER_SECONDS):
                    return await question(self._shared)
            except Exception as error:  # whatever the driver raises: calls go on, counted here
                self._away_until = time.monotonic() + _AWAY_SECONDS
                log.warning("the broker counts no calls, this process does: %r", error)
        return await question(self._own)

    async def close(self) -> None:
        if self._storage is not None:
            bridge: Any = self._storage.bridge
            await bridge.get_connection().aclose()


def _shared_storage(broker_url: str) -> RedisStorage | None:
    # limits has a client of its own for valkey://, which is not installed; the protocol is the same.
    url = broker_url.replace("valkey", "redis", 1) if broker_url.startswith("valkey") else broker_url
    if not url.startswith(("redis://", "rediss://", "redis+unix://")):
        return None
    return RedisStorage(
        f"async+{url}",
        implementation="redispy",
        key_prefix=_PREFIX,
        socket_timeout=_ANSWER_SECONDS,
        socket_connect_timeout=_ANSWER_SECONDS,
    )


def network_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, or 64 bits of an IPv6 one, all of a host's."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
