"""What every blob store can do: bytes by their sha256."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

# What readers are handed at once: large enough that a call's cost vanishes, small enough to be flat.
PIECE_BYTES = 1 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(name: str) -> bool:
    return _SHA256.fullmatch(name) is not None


def checked(sha256: str) -> str:
    """Raises ValueError for what is no sha256, such as `../..`."""
    if not is_sha256(sha256):
        raise ValueError(f"not a sha256 in lower-case hex: {sha256!r}")
    return sha256


@dataclass(frozen=True, slots=True)
class BlobRef:
    sha256: str
    size: int


class BlobWriter(Protocol):
    """Used as a context manager: whatever was not committed is gone afterwards."""

    @property
    def sha256(self) -> str:
        """Of the bytes written so far, in hex."""

    @property
    def size(self) -> int: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def sync(self) -> None:
        """Makes the bytes durable: the slow half of `commit`, which does it if nobody has."""

    def commit(self) -> BlobRef:
        """Makes the bytes durable and visible under their sha256, at once, and as new as if never there.

        May be slow, where the store is far. A second call makes them anew, should they be deleted by then.
        """

    def __enter__(self) -> BlobWriter: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BlobStore(Protocol):
    """Every call raises Unavailable when the store cannot be reached, or refuses."""

    def writer(self) -> BlobWriter: ...
    def put_file(self, file: BinaryIO) -> BlobRef:
        """Stores an open, seekable file from its first byte on. The file may be closed afterwards."""

    def open(self, sha256: str) -> BinaryIO:
        """Seekable. Raises BlobMissing."""

    def stream(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, piece by piece; the first piece tells whether they can be had.

        Raises BlobMissing, and nothing before the first piece is asked for.
        """

    def local_path(self, sha256: str) -> Path | None:
        """The file itself, where the store has one on this machine."""

    def fetch(self, sha256: str, dest: Path, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Copies the bytes to `dest`; False, and half a copy, when `go_on` says no between two pieces.

        Raises BlobMissing, and BlobCorrupt when they are not those.
        """

    def exists(self, sha256: str) -> bool: ...
    def size(self, sha256: str) -> int:
        """Raises BlobMissing."""

    def age(self, sha256: str) -> float | None:
        """Seconds since the bytes were last written; None when they are not there."""

    def delete(self, sha256: str) -> None:
        """Nothing happens when they are already gone. For holders of the blob's lock alone."""

    def list_older(self, seconds: float) -> Iterator[tuple[str, datetime]]:
        """Every blob that was last written at least so long ago, and when that was."""

    def remove_abandoned(self, older_than_seconds: float) -> int:
        """Removes what broken-off writes left behind; returns how many there were."""

    def ping(self) -> None:
        """Raises within seconds when the store does not answer."""
