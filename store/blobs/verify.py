"""Whether bytes are those that their name promises."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from store.blobs.protocol import PIECE_BYTES
from store.errors import BlobCorrupt


def hashed(sha256: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as they are. Raises BlobCorrupt after the last one when their sum is another."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if found.hexdigest() != sha256:
        raise BlobCorrupt(
            f"The stored file {sha256} came with other bytes. If it does so again, upload it anew."
        )


def verify_file(sha256: str, path: Path, go_on: Callable[[], bool] = lambda: True) -> bool:
    """False when `go_on` says no between two pieces. Raises BlobCorrupt."""
    with path.open("rb") as file:
        return all(go_on() for _ in hashed(sha256, iter(partial(file.read, PIECE_BYTES), b"")))
