"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that is sent again is answered
again, not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from api.deps import Caller
from api.errors import IdempotencyKeyReused
from store.database import Database, UnitOfWork
from store.tables import IdempotencyKey, JsonObject, utc_now


@dataclass(frozen=True, slots=True)
class Answer:
    """A status of success and its JSON; `replayed` when an earlier request was given it."""

    status: int
    body: JsonObject
    replayed: bool = False


class Once:
    """One request within the transaction that does what it asks: `earlier`, else `keep`.

    `request` is what was asked for, parsed, so that spelling makes no difference. The order of keys
    does: of overrides, the last that matches counts. Without a key nothing is kept. What is refused
    is not either, since its transaction is rolled back. What was kept before `lifetime` is forgotten.
    Raises IdempotencyKeyReused.
    """

    def __init__(
        self, work: UnitOfWork, caller: Caller, key: str | None, request: Sequence[Any], lifetime: timedelta
    ) -> None:
        self._work = work
        self._owner = caller.owner
        self._key = key
        self._fingerprint = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        self.earlier: Answer | None = None
        row = work.idempotency.hold(caller.owner, key, utc_now() - lifetime) if key is not None else None
        if row is not None:
            if row.fingerprint != self._fingerprint:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key came with another request before. Take a new one for each request."
                )
            self.earlier = Answer(row.status, row.response, replayed=True)

    def keep(self, answer: Answer) -> Answer:
        if self._key is not None:
            self._work.idempotency.add(
                IdempotencyKey(
                    owner=self._owner,
                    key=self._key,
                    fingerprint=self._fingerprint,
                    status=answer.status,
                    response=answer.body,
                )
            )
        return answer


def answered(
    database: Database, caller: Caller, key: str | None, request: Sequence[Any], lifetime: timedelta
) -> Answer | None:
    """What the key was given before. Only `Once` tells for sure: the same request may be under way."""
    if key is None:
        return None
    with database.write() as work:
        return Once(work, caller, key, request, lifetime).earlier
