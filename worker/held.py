"""Locks that go with the process that holds them, however it ends, and that containers of one host share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Held(Exception):
    """Another process, or another thread, holds this lock."""


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock, whose file is there as long as it is held. Raises Held, unless it is to `wait`."""
    handle = take(path, wait=wait)
    try:
        yield
    finally:
        # Before it is let go: whoever opened it meanwhile sees in `take` that it has gone.
        path.unlink(missing_ok=True)
        os.close(handle)


def take(path: Path, *, wait: bool = False) -> int:
    """The locked file's descriptor: closing it lets go. Raises Held, unless it is to `wait`."""
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, how)
            if _is_still_at(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise Held(str(path)) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_still_at(handle: int, path: Path) -> bool:
    """Not so when its holder removed it between our opening and our locking it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(handle)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
