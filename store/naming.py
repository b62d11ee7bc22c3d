"""Makes sure of bytes that a row is about to name: the other side of `garbage`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from store.database import UnitOfWork


class Blobs(Protocol):
    """All that is asked of a store here."""

    def exists(self, sha256: str) -> bool: ...


def hold_blobs(work: UnitOfWork, blobs: Blobs, files: Mapping[str, Callable[[], object]]) -> None:
    """Until the transaction ends, nobody deletes these blobs: the rows that name them may be added.

    They have been written before it, since a store may be slow and others wait for the transaction, on SQLite
    with any write. `files` writes them again, by their sha256: those that somebody was quicker to delete.
    """
    work.blobs.lock(*files)
    for sha256, write in files.items():
        if not blobs.exists(sha256):
            write()
