from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from store.database import Database
from store.tables import IdempotencyKey, utc_now


def row(key: str, status: int = 202) -> IdempotencyKey:
    return IdempotencyKey(owner="local", key=key, fingerprint="x", status=status, response={"n": 1})


def test_of_many_that_hold_a_key_at_once_one_finds_nothing(database: Database) -> None:
    since = utc_now() - timedelta(hours=1)

    def take(n: int) -> int:
        with database.write() as work:
            held = work.idempotency.hold("local", "k", since)
            if held is None:
                work.idempotency.add(row("k", status=n))
                return n
            return held.status

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(take, range(32)))) == 1


def test_old_rows_make_place(database: Database) -> None:
    with database.write() as work:
        work.idempotency.add(row("k"))
    with database.write() as work:
        assert work.idempotency.hold("local", "k", utc_now() - timedelta(hours=1)) is not None
        assert work.idempotency.hold("somebody else", "k", utc_now() - timedelta(hours=1)) is None
        assert work.idempotency.hold("local", "k", utc_now() + timedelta(hours=1)) is None
        work.idempotency.add(row("k", status=200))
    with database.write() as work:
        held = work.idempotency.hold("local", "k", utc_now() - timedelta(hours=1))
    assert held is not None and held.status == 200
