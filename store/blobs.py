"""Bytes by their sha256. The protocol is the place for other stores; the local folder is one."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from store.errors import BlobMissing

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


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
        """Makes the bytes durable and visible under their sha256, at once."""

    def __enter__(self) -> BlobWriter: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BlobStore(Protocol):
    def writer(self) -> BlobWriter: ...
    def put_file(self, path: Path) -> BlobRef: ...
    def open(self, sha256: str) -> BinaryIO:
        """Seekable. Raises BlobMissing."""

    def local_path(self, sha256: str) -> Path | None:
        """The file itself, where the store has one on this machine."""

    def fetch(self, sha256: str, dest: Path) -> None:
        """Copies the bytes to `dest`. Raises BlobMissing."""

    def exists(self, sha256: str) -> bool: ...
    def delete(self, sha256: str) -> None:
        """Nothing happens when they are already gone."""

    def ping(self) -> None:
        """Raises OSError when the store cannot be read and written."""


class LocalBlobWriter:
    def __init__(self, store: LocalBlobs) -> None:
        self._store = store
        handle, name = tempfile.mkstemp(dir=store.incoming)
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
        rest = memoryview(data)
        while rest:  # a raw file may write less than it was given
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def commit(self) -> BlobRef:
        self.sync()
        final = self._store.place(self.sha256)
        final.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(final)
        _sync_folder(final.parent)
        return BlobRef(self.sha256, self._size)

    def __enter__(self) -> LocalBlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class LocalBlobs:
    """A folder: `ab/cd/abcd…`, written under `incoming/` and moved into place when complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def place(self, sha256: str) -> Path:
        """Where these bytes lie. Raises ValueError for what is no sha256, such as `../..`."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a sha256 in lower-case hex: {sha256!r}")
        return self.root / sha256[:2] / sha256[2:4] / sha256

    def writer(self) -> LocalBlobWriter:
        return LocalBlobWriter(self)

    def put_file(self, path: Path) -> BlobRef:
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(_CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def open(self, sha256: str) -> BinaryIO:
        try:
            return self.place(sha256).open("rb")
        except FileNotFoundError:
            raise BlobMissing(f"The stored file {sha256} is gone. Upload it again.") from None

    def local_path(self, sha256: str) -> Path | None:
        path = self.place(sha256)
        return path if path.is_file() else None

    def fetch(self, sha256: str, dest: Path) -> None:
        with self.open(sha256) as source, dest.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def exists(self, sha256: str) -> bool:
        return self.place(sha256).is_file()

    def delete(self, sha256: str) -> None:
        self.place(sha256).unlink(missing_ok=True)

    def ping(self) -> None:
        with tempfile.TemporaryFile(dir=self.incoming) as file:
            file.write(b"zsq")

    def remove_abandoned(self, older_than_seconds: float) -> int:
        """Removes what broken-off writes left in `incoming`; returns how many files."""
        removed = 0
        for path in self.incoming.iterdir():
            try:
                if time.time() - path.stat().st_mtime > older_than_seconds:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # its writer ended in between
                continue
        return removed


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_blobs(url: str) -> LocalBlobs:
    """The store that a URL names: `file:///folder`. Raises ValueError for another scheme."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise ValueError(f"ZSQ_BLOBS_URL must begin with file://, not {url!r}")
    return LocalBlobs(Path(url2pathname(parts.netloc + parts.path)))
