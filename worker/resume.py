"""What a run keeps so that the next attempt can go on from it: out of the workspace, into the blob store."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from store.blobs import BlobWriter
from store.garbage import delete_now
from store.job_claims import Claim
from store.naming import hold_blobs
from worker.plain_files import open_plain
from worker.services import Services

log = logging.getLogger(__name__)

MAX_COMPLAINTS = 5
# From one to the next, but for the last. Less than core ever leaves: who keeps without end is to cost little.
LEAST_SECONDS = 1.0
_CHUNK_BYTES = 1 << 20


class Keeper:
    """Stores the newest of what it is offered, in a thread of its own: progress and cancel do not wait.

    An older one that is not being stored yet is skipped. The block's end waits for what is on its way, unless
    it is discarded or the job no longer `is_ours`: then a large file does not hold up a cancel.
    """

    def __init__(self, services: Services, claim: Claim, scratch: Path, is_ours: Callable[[], bool]) -> None:
        self._services = services
        self._claim = claim
        self._scratch = scratch
        self._is_ours = is_ours
        self._discarded = False
        # Opened before the child runs, which could put something else in the folder's place.
        self._folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        self._changed = threading.Condition()
        self._offered: str | None = None
        self._ending = False
        self._complaints = 0
        # In this context its lines are the job's.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=f"keep {claim.job.id}", daemon=True
        )

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()
        os.close(self._folder)

    def offer(self, path: object) -> None:
        """A file in scratch, as the child named it; gone once it is stored or skipped."""
        self._put(str(path))

    def discard(self) -> None:
        """The job has come to its end: what is not stored yet is skipped, also when it is half on its way."""
        self._discarded = True
        self._put(None)

    def _put(self, path: str | None) -> None:
        with self._changed:
            skipped, self._offered = self._offered, path
            self._changed.notify()
        if skipped is not None:
            self._remove(skipped)

    def _run(self) -> None:
        rest = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending, rest)
                self._changed.wait_for(lambda: self._offered is not None or self._ending)
                path, self._offered = self._offered, None
            if path is None:
                return
            rest = 0.0
            try:
                self._store(path)
                rest = LEAST_SECONDS
            except Exception:  # a run goes on without it, and so does the next attempt
                self._complain(path)
            self._remove(path)

    def _store(self, path: str) -> None:
        services, job_id = self._services, self._claim.job.id
        with self._open(path) as source, services.blobs.writer() as writer:
            if not self._copy(source, writer):
                return
            writer.commit()
            with services.database.write() as work:
                # Before the job's row is locked, for which heartbeats would wait.
                hold_blobs(work, services.blobs, {writer.sha256: writer.commit})
                kept = work.jobs.keep(job_id, self._claim.fence, writer.sha256)
        unused = kept.replaced if kept.owned else writer.sha256
        if kept.owned:
            log.info("%s: kept %d bytes to go on from", job_id, writer.size)
        if unused is not None:
            delete_now(services.database, services.blobs, [unused])

    def _copy(self, source: BinaryIO, writer: BlobWriter) -> bool:
        """False when it became useless on the way, at whatever piece."""
        while self._is_wanted() and (chunk := source.read(_CHUNK_BYTES)):
            writer.write(chunk)
        if self._is_wanted():
            writer.sync()
        return self._is_wanted()

    def _is_wanted(self) -> bool:
        return not self._discarded and self._is_ours()

    def _complain(self, path: str) -> None:
        """The first few times: whoever names the files may do so without end."""
        self._complaints += 1
        if self._complaints <= MAX_COMPLAINTS:
            log.warning("%s: could not keep %r", self._claim.job.id, path[:200], exc_info=True)
        if self._complaints == MAX_COMPLAINTS:
            log.warning("%s: what else it cannot keep is not told of", self._claim.job.id)

    def _open(self, path: str) -> BinaryIO:
        """The file, if it is one and lies in scratch itself: whoever named it has read strangers' bytes.

        Raises OSError, ValueError.
        """
        if Path(path).parent != self._scratch:
            raise ValueError("not a file in scratch")
        return open_plain(Path(path).name, self._folder)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(Path(path).name, dir_fd=self._folder)


def release_ended(services: Services) -> None:
    """Removes what ended jobs would have gone on from, however they ended."""
    with services.database.read() as work:
        jobs = work.jobs.ended_with_resume()
    for job_id, sha256 in jobs:
        with services.database.write() as work:
            work.jobs.forget_resume(job_id, sha256)
        delete_now(services.database, services.blobs, [sha256])
