"""Word of the jobs that somebody watches: one poll of the database for all streams of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from anyio.to_thread import run_sync

from store import tracing
from store.database import Database
from store.errors import Unavailable
from store.watch_repository import Look

log = logging.getLogger(__name__)

POLL_SECONDS, LONGEST_SECONDS = 0.5, 5.0


class Watch:
    """How one job stood at the last poll, for one stream. Nothing queues up: a slow stream sees the latest.

    `look` is None before the first poll; `gone` when the job was deleted; `away` while the database
    cannot be reached.
    """

    def __init__(self) -> None:
        self.look: Look | None = None
        self.gone = False
        self.away = False
        self._news = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until there is news, or so long."""
        with anyio.move_on_after(max(0.0, seconds)):
            await self._news.wait()
        self._news.clear()

    def tell(self, look: Look | None, *, gone: bool = False, away: bool = False) -> None:
        if (look, gone, away) != (self.look, self.gone, self.away):
            self.look, self.gone, self.away = look, gone, away
            self._news.set()

    def wake(self) -> None:
        self._news.set()


class Hub:
    """Polls while anybody watches, and rests otherwise. All of it belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watches: dict[str, set[Watch]] = {}
        self._wanted = asyncio.Event()
        self.closed = False

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        watch = Watch()
        self._watches.setdefault(job_id, set()).add(watch)
        self._wanted.set()
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]
            if not self._watches:
                self._wanted.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run(), name="watching jobs")
        try:
            yield
        finally:
            self.close()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def close(self) -> None:
        """Ends every stream, soon: a server that is told to stop waits for its answers to end."""
        self.closed = True
        for watch in self._all():
            watch.wake()

    async def _run(self) -> None:
        pause = POLL_SECONDS
        while True:
            await self._wanted.wait()
            pause = POLL_SECONDS if await self._poll() else min(pause * 2, LONGEST_SECONDS)
            await asyncio.sleep(pause)

    async def _poll(self) -> bool:
        """Whether the database answered."""
        asked = list(self._watches)
        try:
            looks = await run_sync(self._looks, asked)
        except Unavailable:
            for watch in self._all():
                watch.tell(watch.look, away=True)
            return False
        except Exception:  # without this task every stream would fall silent
            log.exception("looking at the watched jobs failed")
            return False
        for job_id in asked:
            for watch in self._watches.get(job_id, ()):
                watch.tell(looks.get(job_id), gone=job_id not in looks)
        return True

    def _looks(self, job_ids: list[str]) -> dict[str, Look]:
        with tracing.untraced(), self._database.read() as work:
            return work.watches.looks(job_ids)

    def _all(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]
