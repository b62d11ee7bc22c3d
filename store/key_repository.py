"""API keys: what one looks like, and every query over them.

`zsq_<id>_<secret>`: the prefix lets scanners of leaked secrets find keys, the id says which one it is,
and the secret has 256 random bits, so that a plain sha256 of the whole suffices to keep it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.repositories import changed_one
from store.tables import ApiKey, new_id, utc_now

OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_KEY = re.compile(r"zsq_[0-9a-f]{24}_[A-Za-z0-9_-]{43}", re.ASCII)
_USE_NOTED_EVERY = timedelta(minutes=1)


def hash_of(key: str) -> str | None:
    """What is kept of a key; None for what cannot be one."""
    return hashlib.sha256(key.encode()).hexdigest() if _KEY.fullmatch(key) else None


def is_usable(row: ApiKey, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


class KeyRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, owner: str, name: str | None, expires_at: datetime | None) -> tuple[ApiKey, str]:
        """The row, and the key itself, which nothing can bring back later."""
        id = new_id("key")
        key = f"zsq_{id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
        digest = hash_of(key)
        assert digest is not None
        row = ApiKey(id=id, owner=owner, name=name, hash=digest, expires_at=expires_at)
        self._session.add(row)
        self._session.flush()
        return row, key

    def by_hash(self, digest: str) -> ApiKey | None:
        return self._session.scalars(select(ApiKey).where(ApiKey.hash == digest)).one_or_none()

    def get(self, id: str) -> ApiKey | None:
        return self._session.get(ApiKey, id)

    def all(self) -> Sequence[ApiKey]:
        """Oldest first."""
        return self._session.scalars(select(ApiKey).order_by(ApiKey.id)).all()

    def revoke(self, id: str) -> bool:
        """False when it was revoked before, or there is none."""
        live = update(ApiKey).where(ApiKey.id == id, ApiKey.revoked_at.is_(None))
        return changed_one(self._session.execute(live.values(revoked_at=utc_now())))

    def note_use(self, id: str, now: datetime) -> bool:
        """Writes `last_used_at`, once a minute at most. False when that was not yet due."""
        due = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at <= now - _USE_NOTED_EVERY)
        noted = update(ApiKey).where(ApiKey.id == id, due).values(last_used_at=now)
        return changed_one(self._session.execute(noted))


def use_is_due(row: ApiKey, now: datetime) -> bool:
    """Whether `note_use` would write; asked first, since readers need no lock."""
    return row.last_used_at is None or row.last_used_at <= now - _USE_NOTED_EVERY
