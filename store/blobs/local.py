"""Blobs in a folder that all parts of the system share."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from store.blobs.protocol import PIECE_BYTES, BlobRef, checked, is_sha256
from store.blobs.summed import Summed
from store.blobs.verify import hashed
from store.errors import BlobMissing, Unavailable


@contextmanager
def _usable() -> Iterator[None]:
    """A full disk or a lost mount becomes the error that every store raises."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The blob folder cannot be used: {error.strerror or error}.") from error


class LocalBlobWriter(Summed):
    def __init__(self, store: LocalBlobs) -> None:
        super().__init__()
        self._store = store
        with _usable():
            handle, name = tempfile.mkstemp(dir=store.incoming)
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "w+b", buffering=0)
        self._synced = self._committed = False

    def write(self, data: bytes | memoryview) -> None:
        self._count(data)
        rest = memoryview(data)
        with _usable():
            while rest:  # a raw file may write less than it was given
                rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        if not self._synced:
            with _usable():
                os.fsync(self._file.fileno())
            self._synced = True

    def commit(self) -> BlobRef:
        if self._committed:  # and deleted since, though not from the file that is still open
            with _usable():
                return self._store.put_file(self._file)
        self.sync()
        final = self._store.place(self.sha256)
        with _usable():
            # Its age counts from now, however long ago the last byte came.
            os.utime(self._temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.replace(final)
            _sync_folder(final.parent)
        self._committed = True
        return BlobRef(self.sha256, self.size)

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
        return self.root / checked(sha256)[:2] / sha256[2:4] / sha256

    def writer(self) -> LocalBlobWriter:
        return LocalBlobWriter(self)

    def put_file(self, file: BinaryIO) -> BlobRef:
        file.seek(0)
        with self.writer() as writer:
            while piece := file.read(PIECE_BYTES):
                writer.write(piece)
            return writer.commit()

    def open(self, sha256: str) -> BinaryIO:
        with _usable():
            try:
                return self.place(sha256).open("rb")
            except FileNotFoundError:
                raise _missing(sha256) from None

    def stream(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with self.open(sha256) as source, _usable():
            source.seek(start)
            left = stop - start if stop is not None else None
            while piece := source.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES)):
                left = left - len(piece) if left is not None else None
                yield piece

    def local_path(self, sha256: str) -> Path | None:
        path = self.place(sha256)
        return path if path.is_file() else None

    def fetch(self, sha256: str, dest: Path, go_on: Callable[[], bool] = lambda: True) -> bool:
        with dest.open("wb") as target:
            for piece in hashed(sha256, self.stream(sha256)):
                if not go_on():
                    return False
                target.write(piece)
        return True

    def exists(self, sha256: str) -> bool:
        return self._stat(sha256) is not None

    def size(self, sha256: str) -> int:
        found = self._stat(sha256)
        if found is None:
            raise _missing(sha256)
        return found.st_size

    def age(self, sha256: str) -> float | None:
        found = self._stat(sha256)
        return time.time() - found.st_mtime if found is not None else None

    def delete(self, sha256: str) -> None:
        with _usable():
            self.place(sha256).unlink(missing_ok=True)

    def list_older(self, seconds: float) -> Iterator[tuple[str, datetime]]:
        for folder in self._folders():
            for name in sorted(path.name for path in folder.iterdir()):
                found = self._stat(name) if is_sha256(name) else None
                if found is not None and time.time() - found.st_mtime >= seconds:
                    yield name, datetime.fromtimestamp(found.st_mtime, UTC)

    def remove_abandoned(self, older_than_seconds: float) -> int:
        removed = 0
        with _usable():
            for path in self.incoming.iterdir():
                try:
                    if time.time() - path.stat().st_mtime > older_than_seconds:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:  # its writer ended in between
                    continue
        return removed

    def ping(self) -> None:
        with _usable(), tempfile.TemporaryFile(dir=self.incoming) as file:
            file.write(b"zsq")

    def _folders(self) -> Iterator[Path]:
        with _usable():
            yield from sorted(path for path in self.root.glob("??/??") if path.is_dir())

    def _stat(self, sha256: str) -> os.stat_result | None:
        with _usable():
            try:
                return self.place(sha256).stat()
            except FileNotFoundError:
                return None


def _missing(sha256: str) -> BlobMissing:
    return BlobMissing(f"The stored file {sha256} is gone. Upload it again.")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
