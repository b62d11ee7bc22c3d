"""Locks by name that last until the transaction ends, for what no row stands for yet."""

from __future__ import annotations

import zlib
from enum import IntEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

# As long as SQLite's busy timeout. Whoever waits longer is told that the database is too busy.
_WAIT_SECONDS = 30


class Lock(IntEnum):
    """What a name belongs to. Two names may share a lock by chance: then one waits, and no more."""

    # 1 is held by migrations.
    BLOB = 2
    IDEMPOTENCY_KEY = 3
    DIGEST = 4
    CLAIM = 5
    OWNER = 6


def lock(session: Session, kind: Lock, *names: str) -> None:
    """SQLite's writing transactions exclude each other, from where they begin."""
    connection = session.connection()  # begins it, where nothing else has yet
    if connection.dialect.name == "postgresql":
        session.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS:g}s'"))
        # In one order, or two that lock the same ones could wait for each other.
        for key in sorted({zlib.crc32(name.encode()) - 2**31 for name in names}):
            session.execute(
                text("SELECT pg_advisory_xact_lock(:kind, :key)"), {"kind": int(kind), "key": key}
            )
