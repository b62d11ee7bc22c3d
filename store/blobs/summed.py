"""What every writer counts."""

from __future__ import annotations

import hashlib


class Summed:
    """The sha256, in hex, and the size of the bytes written so far."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def size(self) -> int:
        return self._size

    def _count(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
