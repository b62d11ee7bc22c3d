from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import redis

from api.access.rates import Counters, Rate, Window, network_of

Answer = TypeVar("Answer")


@pytest.fixture(params=["valkey", "memory"])
def counting_url(request: pytest.FixtureRequest, broker_url: str) -> str:
    if request.param == "memory":
        return "amqp://127.0.0.1:1//"
    with redis.Redis.from_url(broker_url) as server:
        server.flushdb()
    return broker_url


def ask(url: str, question: Callable[[Counters], Awaitable[Answer]]) -> Answer:
    async def asked() -> Answer:
        counters = Counters(url)
        try:
            return await question(counters)
        finally:
            await counters.close()

    return asyncio.run(asked())


def within(windows: list[Window | None]) -> list[bool]:
    return [window is not None and window.within for window in windows]


def test_so_many_are_within_the_limit_and_owners_have_their_own(counting_url: str) -> None:
    async def question(counters: Counters) -> tuple[list[Window | None], Window | None]:
        rate = Rate("calls", 3, counters)
        return [await rate.take("ann") for _ in range(5)], await rate.take("bob")

    anns, bobs = ask(counting_url, question)
    assert within(anns) == [True, True, True, False, False]
    assert [window.remaining for window in anns if window] == [2, 1, 0, 0, 0]
    assert all(window is not None and window.limit == 3 and 1 <= window.reset <= 60 for window in anns)
    assert bobs is not None and bobs.remaining == 2


def test_a_look_counts_nothing(counting_url: str) -> None:
    async def question(counters: Counters) -> list[Window | None]:
        rate = Rate("calls", 1, counters)
        looks = [await rate.look("ann") for _ in range(3)]
        return [*looks, await rate.take("ann"), await rate.look("ann")]

    assert within(ask(counting_url, question)) == [True, True, True, True, False]


def test_without_a_limit_nothing_is_counted(counting_url: str) -> None:
    async def question(counters: Counters) -> list[Window | None]:
        rate = Rate("calls", 0, counters)
        return [await rate.take("ann"), await rate.look("ann")]

    assert ask(counting_url, question) == [None, None]


def test_several_processes_count_together(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as server:
        server.flushdb()

    async def question(counters: Counters) -> list[Window | None]:
        other = Counters(broker_url)
        rates = [Rate("calls", 4, counters), Rate("calls", 4, other)]
        try:
            return [await rates[turn % 2].take("ann") for turn in range(6)]
        finally:
            await other.close()

    assert within(ask(broker_url, question)) == [True] * 4 + [False] * 2


def test_valkey_by_its_own_scheme_is_the_same(broker_url: str) -> None:
    url = broker_url.replace("redis://", "valkey://")

    async def question(counters: Counters) -> Window | None:
        return await Rate("scheme", 4, counters).take("ann")

    assert ask(url, question)
    with redis.Redis.from_url(broker_url) as server:
        assert [key for key in server.keys("zsq.rate*") if b"scheme" in key]


def test_a_broker_that_is_away_is_left_alone_and_calls_are_still_counted() -> None:
    async def question(counters: Counters) -> list[Window | None]:
        rate = Rate("calls", 2, counters)
        return [await rate.take("ann") for _ in range(3)]

    assert within(ask("redis://127.0.0.1:1/0", question)) == [True, True, False]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_hosts_that_have_a_network_are_one_caller(address: str, network: str) -> None:
    assert network_of(address) == network
