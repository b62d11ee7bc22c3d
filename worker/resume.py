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

from store.blobs import BlobRef
from store.garbage import delete_now
from store.job_claims import Claim
from store.naming import hold_blobs
from worker.outcomes import Stop
from worker.plain_files import open_plain
from worker.services import Services
from worker.transfers import Guarded, Interrupted, Transfers, answers

log = logging.getLogger(__name__)

MAX_COMPLAINTS = 5
# From one to the next, but for the last. Less than core ever leaves: who keeps without end is to cost little.
LEAST_SECONDS = 1.0
_CHUNK_BYTES = 1 << 20


class _Useless(Exception):
    """Nobody goes on from this state any more."""


class Keeper:
    """Stores the newest of what it is offered, in a thread of its own: progress and cancel do not wait.

    An older one that is not being stored yet is skipped. The block's end waits for what is on its way, which
    may take `ZSQ_FETCH_SECONDS`, unless it is discarded or `watch` says why not: then neither a large file
    nor a store that hangs holds up a cancel. That this worker is to stop counts only from there on.
    """

    def __init__(
        self, services: Services, claim: Claim, scratch: Path, watch: Callable[[], Stop | None]
    ) -> None:
        self._services = services
        self._claim = claim
        self._scratch = scratch
        self._watch = watch
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
        self._set(str(path))

    def discard(self) -> None:
        """The job has come to its end: what is not stored yet is skipped, also when it is half on its way."""
        self._discarded = True
        self._set(None)

    def _set(self, path: str | None) -> None:
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
            except _Useless:
                log.debug("%s: a state that is not needed any more is not kept", self._claim.job.id)
            except Interrupted as interrupted:
                log.warning("%s: its newest state is not kept: %s", self._claim.job.id, interrupted)
            except Exception:  # a run goes on without it, and so does the next attempt
                self._complain(path)
            self._remove(path)

    def _store(self, path: str) -> None:
        services, job_id = self._services, self._claim.job.id
        transfers = Transfers(self._why_not, services.settings.fetch_seconds)
        stored = self._put(path, transfers)

        def again() -> None:
            if self._put(path, transfers) != stored:
                raise ValueError("not the bytes that were stored before")

        with services.database.write() as work:
            # Before the job's row is locked, for which heartbeats would wait.
            hold_blobs(work, Guarded(services.blobs, transfers), {stored.sha256: again})
            kept = work.jobs.keep(job_id, self._claim.fence, stored.sha256)
        unused = kept.replaced if kept.owned else stored.sha256
        if kept.owned:
            log.info("%s: kept %d bytes to go on from", job_id, stored.size)
        if unused is not None:
            delete_now(services.database, services.blobs, [unused])

    def _put(self, path: str, transfers: Transfers) -> BlobRef:
        """Raises Interrupted and _Useless when it became so on the way, at whatever piece."""
        with self._open(path) as source:
            # Closed at the end of the block, it also ends a call that was left behind.
            return transfers.run(lambda go_on: self._copy(source, go_on))

    def _copy(self, source: BinaryIO, go_on: Callable[[], bool]) -> BlobRef:
        """Not `put_file`, which may read twice: the child still runs, and may write."""
        with self._services.blobs.writer() as writer:
            while chunk := source.read(_CHUNK_BYTES):
                self._check(go_on)
                writer.write(chunk)
            self._check(go_on)
            writer.sync()
            self._check(go_on)
            return writer.commit()

    def _check(self, go_on: Callable[[], bool]) -> None:
        if not go_on() or self._is_useless():
            raise _Useless

    def _is_useless(self) -> bool:
        return self._discarded or self._watch() in (Stop.LOST, Stop.CANCELED)

    def _why_not(self) -> Stop | None:
        if self._is_useless():
            raise _Useless
        return self._watch() if self._ending else None

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
    if not jobs:
        return
    for job_id, sha256 in jobs:
        with services.database.write() as work:
            work.jobs.forget_resume(job_id, sha256)
    # Bytes are deleted in transactions, which a store that hangs must not keep open.
    if answers(services.blobs, services.stopping):
        delete_now(services.database, services.blobs, [sha256 for _, sha256 in jobs])
    else:
        log.warning("the blob store does not answer: what %d jobs kept is left to the collector", len(jobs))
