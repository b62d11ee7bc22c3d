"""Whether bytes are those that their name promises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from store.errors import BlobCorrupt


def hashed(sha256: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as they are. Raises BlobCorrupt after the last one when their sum is another."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    _compare(sha256, found.hexdigest())


def verify_file(sha256: str, path: Path) -> None:
    """Raises BlobCorrupt."""
    with path.open("rb") as file:
        _compare(sha256, hashlib.file_digest(file, "sha256").hexdigest())


def _compare(wanted: str, found: str) -> None:
    if found != wanted:
        raise BlobCorrupt(
            f"The stored file {wanted} came with other bytes. If it does so again, upload it anew."
        )
