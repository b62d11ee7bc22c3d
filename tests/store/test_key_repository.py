from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from store.database import Database
from store.key_repository import hash_of, is_usable, use_is_due
from store.tables import utc_now


def test_the_key_itself_is_kept_nowhere(database: Database) -> None:
    with database.write() as work:
        row, key = work.keys.create("ann", "laptop", None)
    prefix, id, secret = key.split("_", 2)
    assert (prefix, f"key_{id}", len(secret)) == ("zsq", row.id, 43), "43 characters are 256 bits"
    with database.read() as work:
        found = work.keys.by_hash(hashlib.sha256(key.encode()).hexdigest())
        assert found is not None and found.id == row.id
        kept = [str(getattr(found, column.name)) for column in found.__table__.columns]
    assert not any(secret in value for value in kept)


def test_no_two_keys_are_alike(database: Database) -> None:
    with database.write() as work:
        secrets = {work.keys.create("ann", None, None)[1][-43:] for _ in range(50)}
    assert len(secrets) == 50


@pytest.mark.parametrize(
    "text", ["", "zsq_", "zsq_" + "0" * 24 + "_" + "A" * 42, "zsq_" + "0" * 24 + "_" + "Ä" * 43, "x" * 9999]
)
def test_what_cannot_be_a_key_has_no_hash(text: str) -> None:
    assert hash_of(text) is None
    assert hash_of("zsq_" + "0" * 24 + "_" + "A" * 43) is not None


def test_a_key_is_usable_until_it_expires_or_is_revoked(database: Database) -> None:
    now = utc_now()
    with database.write() as work:
        row, _ = work.keys.create("ann", None, now + timedelta(days=1))
        forever, _ = work.keys.create("ann", None, None)
    assert is_usable(row, now) and not is_usable(row, now + timedelta(days=1))
    assert is_usable(forever, now + timedelta(days=100_000))
    with database.write() as work:
        assert work.keys.revoke(row.id)
        assert not work.keys.revoke(row.id), "once"
        assert not work.keys.revoke("key_0")
    with database.read() as work:
        found = work.keys.get(row.id)
        assert found is not None and not is_usable(found, now)


def test_a_use_is_written_once_a_minute(database: Database) -> None:
    now = utc_now()
    with database.write() as work:
        row, _ = work.keys.create("ann", None, None)
        assert use_is_due(row, now) and work.keys.note_use(row.id, now)
    later = (timedelta(seconds=59), timedelta(seconds=60))
    with database.write() as work:
        assert [work.keys.note_use(row.id, now + after) for after in later] == [False, True]
    with database.read() as work:
        found = work.keys.get(row.id)
        assert found is not None and found.last_used_at == now + later[1]
        assert [use_is_due(found, found.last_used_at + after) for after in later] == [False, True]
