"""Queries over the answers that `Idempotency-Key`s were given."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from store.locks import Lock, lock
from store.tables import IdempotencyKey


class IdempotencyRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def hold(self, owner: str, key: str, since: datetime) -> IdempotencyKey | None:
        """What the key was given after `since`; older rows are gone.

        Until this transaction ends, no other one holds the same key: of many requests at once the
        first makes the job, and the others wait for its answer.
        """
        lock(self._session, Lock.IDEMPOTENCY_KEY, f"{owner}\0{key}")
        row = self._session.get(IdempotencyKey, (owner, key), populate_existing=True)
        if row is None or row.created_at > since:
            return row
        self._session.execute(
            delete(IdempotencyKey)
            .where(IdempotencyKey.owner == owner, IdempotencyKey.key == key)
            .execution_options(synchronize_session=False)
        )
        self._session.expunge(row)
        return None

    def add(self, row: IdempotencyKey) -> None:
        self._session.add(row)
        self._session.flush()
