"""Keeps a claimed job ours: renews the lease, writes progress, hears of cancels. A thread of its own,
so that long uploads and downloads are covered too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Any

from store import tracing
from store.database import Database
from store.job_claims import Claim
from store.job_repository import Beat

# More changes of phase than a run has. Each is a transaction, and SQLite's are everybody's turn.
PROMPT_PHASES = 20

log = logging.getLogger(__name__)


class Lease:
    """`lost` and `cancel_requested` turn true once and stay so.

    A database that cannot be reached is borne for as long as the lease lasts; then the job counts
    as lost, since another worker may have it by now.
    """

    def __init__(self, database: Database, claim: Claim, *, lease_seconds: float, every: float) -> None:
        self._database = database
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._every = every
        self._news: dict[str, Any] = {}
        self._news_lock = threading.Lock()
        self._prompt = PROMPT_PHASES
        self._renewed = time.monotonic()
        # Seconds, and since when more are added; one attribute, since two threads read it.
        self._ran: tuple[float, float | None] = claim.job.ran_seconds, None
        self._wake = threading.Event()
        self._ended = False
        self._lost = False
        self.cancel_requested = False

    def __enter__(self) -> Lease:
        # In this context its lines are the job's.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=f"lease {self._claim.job.id}", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """Also while a beat still waits for an answer: the lease runs out whether one comes or not."""
        if time.monotonic() - self._renewed > self._lease_seconds:
            self._lost = True
        return self._lost

    @property
    def ran_seconds(self) -> float:
        """How long the job has run: its earlier attempts, and the time inside `running`."""
        seconds, since = self._ran
        return seconds if since is None else seconds + time.monotonic() - since

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the job's own process: fetching inputs and publishing results are not charged to it."""
        self._ran = self.ran_seconds, time.monotonic()
        try:
            yield
        finally:
            self._ran = self.ran_seconds, None

    def report(self, news: dict[str, Any]) -> None:
        """`phase`, `progress`, `metrics`: written with the next beat; at once for a new phase,
        the first `PROMPT_PHASES` times."""
        with self._news_lock:
            new_phase = news.get("phase") not in (None, self._news.get("phase"))
            self._news.update({key: news[key] for key in ("phase", "progress", "metrics") if news.get(key)})
        if new_phase and self._prompt:
            self._prompt -= 1
            self._wake.set()

    def beat(self) -> None:
        """One heartbeat, now."""
        began = time.monotonic()
        with self._news_lock:
            news = dict(self._news)
        try:
            with self._database.write() as work:
                beat = work.jobs.heartbeat(
                    self._claim.job.id,
                    self._claim.fence,
                    self._lease_seconds,
                    ran_seconds=self.ran_seconds,
                    **news,
                )
        except Exception:  # whatever the driver raises when the database is away
            log.warning("heartbeat of %s failed", self._claim.job.id, exc_info=True)
            return
        self._renewed = began
        self._take(beat)

    def _take(self, beat: Beat) -> None:
        self._lost = self._lost or not beat.owned
        self.cancel_requested = self.cancel_requested or beat.cancel_requested

    def _run(self) -> None:
        with tracing.untraced():
            while not self._ended and not self.lost:
                self.beat()
                self._wake.wait(self._every)
                self._wake.clear()
