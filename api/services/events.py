"""A job's events: as pages, and as a stream that goes on where its client lost it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from anyio.to_thread import run_sync
from fastapi.sse import format_sse_event

from api.schemas.jobs import EventOut, ProgressOut
from api.services.watching import Hub
from store.database import Database, UnitOfWork
from store.errors import Unavailable
from store.key_repository import is_usable
from store.tables import JobEvent, utc_now
from store.transitions import ENDED
from store.watch_repository import Look

RETRY_MILLISECONDS = 2000
HEARTBEAT_SECONDS = 15.0
# How often it is looked whether the key that a stream was opened with is still good.
KEY_SECONDS = 15.0
# Progress is told no more often; workers write it about once a second.
PROGRESS_SECONDS = 1.0
_BATCH = 100


def page(work: UnitOfWork, job_id: str, after: int, limit: int) -> tuple[Sequence[JobEvent], str | None]:
    """Oldest first, with the cursor of the next page; the job's owner has been checked."""
    rows = work.jobs.events(job_id, after, limit + 1)
    return rows[:limit], str(rows[limit - 1].id) if len(rows) > limit else None


async def stream(
    hub: Hub,
    database: Database,
    job_id: str,
    after: int,
    *,
    key_id: str | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    key_seconds: float = KEY_SECONDS,
) -> AsyncIterator[bytes]:
    """Every event with an id above `after`, in order, once.

    It ends with the job, with this server, or with the key that it was opened with.

    Events are read from the database by the last id that was sent, when the hub has seen a newer one:
    nothing is kept in memory for a client that reads slowly. While the database is away the stream
    stays open. Comments pass the time, so that nothing between takes the connection for dead.
    """
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    events, progress = _Events(database, job_id, after), _Progress()
    spoke, away = time.monotonic(), False
    look_at_key = spoke + key_seconds if key_id is not None else float("inf")
    with hub.watch(job_id) as watch:
        while not (hub.closed or watch.gone):
            if key_id is not None and time.monotonic() >= look_at_key:
                if not await run_sync(_is_good, database, key_id):
                    return
                look_at_key = time.monotonic() + key_seconds
            chunks = await events.unread(watch.look)
            if not events.ended:
                chunks += progress.news(watch.look)
            if watch.away and not away:
                chunks.append(format_sse_event(comment="the database cannot be reached; this goes on"))
            elif not chunks and time.monotonic() - spoke >= heartbeat:
                chunks.append(format_sse_event(comment="still there"))
            away = watch.away
            for chunk in chunks:
                yield chunk
                spoke = time.monotonic()
            if events.ended:
                return
            soonest = min(spoke + heartbeat, look_at_key, progress.due, events.due)
            await watch.wait(soonest - time.monotonic())


def _is_good(database: Database, key_id: str) -> bool:
    """While the database is away, nobody's key ends."""
    try:
        with database.read() as work:
            key = work.keys.get(key_id)
    except Unavailable:
        return True
    return key is not None and is_usable(key, utc_now())


class _Events:
    """`ended` when the last event there will be was among them; `due`: when to look without being told."""

    def __init__(self, database: Database, job_id: str, after: int) -> None:
        self._database = database
        self._job_id = job_id
        self._last = after
        self.due = 0.0
        self.ended = False

    async def unread(self, look: Look | None) -> list[bytes]:
        newer = look is None or look.newest_event > self._last
        # Of a job that ended before the id where its client would go on, nothing will ever come.
        self.ended = look is not None and not newer and look.status in ENDED
        if time.monotonic() < self.due and (look is None or not newer):
            return []
        try:
            rows = await run_sync(self._read)
        except Unavailable:
            self.due = time.monotonic() + 1.0
            return []
        self.due = 0.0 if len(rows) == _BATCH else float("inf")
        if rows:
            self._last, self.ended = rows[-1].id, is_last(rows[-1])
        return [_encoded(row) for row in rows]

    def _read(self) -> Sequence[JobEvent]:
        with self._database.read() as work:
            return work.jobs.events(self._job_id, self._last, _BATCH)


class _Progress:
    """The latest, when it is another than the one before. `due`: when what was held back may be told."""

    def __init__(self) -> None:
        self._told = b""
        self._next = 0.0
        self.due = float("inf")

    def news(self, look: Look | None) -> list[bytes]:
        self.due = float("inf")
        if look is None or look.status != "running" or not look.progress:
            return []
        chunk = format_sse_event(event="progress", data_str=ProgressOut.of(look).model_dump_json())
        now = time.monotonic()
        if chunk == self._told:
            return []
        if now < self._next:
            self.due = self._next
            return []
        self._told, self._next = chunk, now + PROGRESS_SECONDS
        return [chunk]


def is_last(event: JobEvent) -> bool:
    return event.kind == "status" and event.data["status"] in ENDED


def _encoded(row: JobEvent) -> bytes:
    event = EventOut.of(row)
    return format_sse_event(id=str(event.id), event=event.event, data_str=event.data.model_dump_json())
