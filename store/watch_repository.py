"""How the jobs that somebody watches stand: one query for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.tables import Job, JobEvent, JsonObject

# SQLite takes 32,766 parameters in one statement.
_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Look:
    """A job at one moment. `newest_event` is the id of its last event."""

    status: str
    phase: str | None
    attempt: int
    progress: JsonObject
    metrics: JsonObject
    newest_event: int


class WatchRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def looks(self, job_ids: Iterable[str]) -> dict[str, Look]:
        """Jobs that are gone are left out."""
        newest = (
            select(func.max(JobEvent.id)).where(JobEvent.job_id == Job.id).correlate(Job).scalar_subquery()
        )
        columns = (Job.id, Job.status, Job.phase, Job.attempt, Job.progress, Job.metrics, newest)
        ids = sorted(job_ids)
        found: dict[str, Look] = {}
        for start in range(0, len(ids), _AT_ONCE):
            query = select(*columns).where(Job.id.in_(ids[start : start + _AT_ONCE]))
            for id, status, phase, attempt, progress, metrics, event in self._session.execute(query):
                found[id] = Look(status, phase, attempt, progress, metrics, event or 0)
        return found
