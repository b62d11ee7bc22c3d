from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from api.access.keyring import TRUST_SECONDS, Keyring
from store.database import Database, make_engine
from store.errors import Unavailable
from store.key_repository import hash_of
from store.migrate import upgrade
from store.tables import utc_now


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'zsq.db'}"
    upgrade(url)
    database = Database(make_engine(url))
    yield database
    database.dispose()


def new_key(database: Database, *, seconds: float | None = None) -> tuple[str, str]:
    """The key's hash and its id."""
    expires = utc_now() + timedelta(seconds=seconds) if seconds is not None else None
    with database.write() as work:
        row, key = work.keys.create("ann", None, expires)
    digest = hash_of(key)
    assert digest is not None
    return digest, row.id


def test_a_key_is_looked_up_again_when_it_was_trusted_long_enough(database: Database) -> None:
    clock = Clock()
    keyring = Keyring(database, clock)
    digest, id = new_key(database)
    assert keyring.trusted(digest) is None and not keyring.is_remembered(digest)
    assert keyring.look_up(digest)
    with database.write() as work:
        work.keys.revoke(id)
    clock.now = TRUST_SECONDS
    assert keyring.trusted(digest), "so long a revoked key works, and no longer:"
    clock.now = TRUST_SECONDS + 0.001
    assert keyring.trusted(digest) is None
    assert keyring.is_remembered(digest)
    assert keyring.look_up(digest) is None
    assert not keyring.is_remembered(digest), "nor is it worth another look"


def test_trust_ends_with_the_key(database: Database) -> None:
    keyring = Keyring(database, Clock())
    digest, _ = new_key(database, seconds=0.3)
    assert keyring.look_up(digest)
    while keyring.trusted(digest):
        pass
    assert keyring.look_up(digest) is None


def test_what_is_remembered_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.access.keyring._REMEMBERED", 3)
    keyring = Keyring(database, Clock())
    digests = [new_key(database)[0] for _ in range(5)]
    for digest in digests:
        assert keyring.look_up(digest)
    assert [keyring.is_remembered(digest) for digest in digests] == [False, False, True, True, True]


def test_a_use_that_cannot_be_noted_harms_nobody(database: Database) -> None:
    keyring = Keyring(database, Clock())
    digest, id = new_key(database)
    row = keyring.look_up(digest)
    assert row is not None
    assert keyring.use_is_due(row)
    keyring.note_use(row)
    assert not keyring.use_is_due(row) and keyring.trusted(digest) is row, (
        "not for every call until the next look"
    )
    with database.read() as work:
        found = work.keys.get(id)
        assert found is not None and found.last_used_at is not None
    gone = Keyring(Database(make_engine("postgresql://127.0.0.1:1/none")), Clock())
    gone.note_use(row)
    with pytest.raises(Unavailable):
        gone.look_up(digest)
