"""Deletes bytes that no row names.

Rows go first, in a transaction of their own: what fails after that is the collector's to find.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from store.blobs import BlobStore
from store.database import Database
from store.errors import StoreError

log = logging.getLogger(__name__)


def delete_unused(
    database: Database, blobs: BlobStore, sha256: str, *, older_than: float | None = None
) -> bool:
    """Whether the bytes are deleted: no row names them, and they were written so many seconds ago.

    One short transaction: others wait for it, on SQLite for any blob, on PostgreSQL for this one.
    """
    with database.write() as work:
        work.blobs.lock(sha256)
        if work.blobs.in_use([sha256]):
            return False
        age = blobs.age(sha256)
        if age is None or (older_than is not None and age < older_than):
            return False
        blobs.delete(sha256)
        return True


def delete_now(database: Database, blobs: BlobStore, sha256s: Iterable[str]) -> None:
    """What a user deleted goes at once where nobody else names it, else later by the collector."""
    for sha256 in sha256s:
        try:
            delete_unused(database, blobs, sha256)
        except StoreError as error:
            log.warning("blob %s is left to the collector: %s", sha256, error.detail)
