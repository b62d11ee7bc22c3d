"""Whose key a call carries. What was found is trusted for a few seconds, so most calls ask no database."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from store.database import Database
from store.errors import StoreError
from store.key_repository import is_usable, use_is_due
from store.tables import ApiKey, utc_now

log = logging.getLogger(__name__)

# A revoked key works for so long at most.
TRUST_SECONDS = 5.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    row: ApiKey
    checked_at: float


class Keyring:
    """By the key's hash. `trusted` and `is_remembered` only look into memory; the rest asks the database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def trusted(self, digest: str) -> ApiKey | None:
        """A key that was good moments ago, and has not expired since."""
        entry = self._entries.get(digest)
        if entry is None or self._clock() - entry.checked_at > TRUST_SECONDS:
            return None
        return entry.row if is_usable(entry.row, utc_now()) else None

    def is_remembered(self, digest: str) -> bool:
        """Whether it was good when it was last looked up: worth another look, whoever else fails."""
        return digest in self._entries

    def look_up(self, digest: str) -> ApiKey | None:
        """Raises Unavailable. None for unknown, expired and revoked keys alike."""
        with self._database.read() as work:
            row = work.keys.by_hash(digest)
        if row is None or not is_usable(row, utc_now()):
            self._entries.pop(digest, None)
            return None
        self._entries[digest] = _Entry(row, self._clock())
        self._entries.move_to_end(digest)
        while len(self._entries) > _REMEMBERED:
            self._entries.popitem(last=False)
        return row

    def use_is_due(self, row: ApiKey) -> bool:
        """Whether `note_use` is worth a thread."""
        return use_is_due(row, utc_now())

    def note_use(self, row: ApiKey) -> None:
        """Writes when the key was last used, once a minute at most. What fails here fails no call."""
        # Of the copy that is trusted, too: calls until the next look need not try again.
        row.last_used_at = now = utc_now()
        try:
            with self._database.write() as work:
                work.keys.note_use(row.id, now)
        except StoreError as error:
            log.warning("%s: could not note its use: %s", row.id, error)
