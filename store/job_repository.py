"""Queries over jobs: claims with a lease and a fence, and every change of status.

Each change is one conditional UPDATE, so it happens once however many try; the event that tells of
it stands in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session, defer

from store.errors import AlreadyEnded, JobUnfinished
from store.tables import Artifact, Checkpoint, Dataset, Job, JobEvent, JsonObject, utc_now
from store.transitions import ENDED, STATUSES, sources

_DONE = {"fraction": 1.0, "step": 0, "steps": 0, "eta_seconds": 0.0}


@dataclass(frozen=True, slots=True)
class Claim:
    """The job is the caller's as long as its writes carry `fence` and the lease is kept alive."""

    job: Job
    fence: int


@dataclass(frozen=True, slots=True)
class Beat:
    """`owned` is false when the job was taken away: stop, and write nothing more."""

    owned: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Ids by what became of them. `requeued` and `stale` are to be sent to the queue."""

    requeued: list[str]
    failed: list[str]
    canceled: list[str]
    stale: list[str]
    rejected: list[str]


class JobRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    # --- reading

    def get(self, id: str, owner: str | None = None) -> Job | None:
        query = select(Job).where(Job.id == id)
        if owner is not None:
            query = query.where(Job.owner == owner)
        return self._session.scalars(query).one_or_none()

    def page(
        self,
        owner: str,
        limit: int,
        after: str | None = None,
        *,
        status: str | None = None,
        checkpoint_id: str | None = None,
        method: str | None = None,
    ) -> tuple[Sequence[Job], str | None]:
        """Newest first, without their reports; `after` is the cursor of the page before."""
        query = select(Job).where(Job.owner == owner).options(defer(Job.report, raiseload=True))
        filters = ((Job.status, status), (Job.checkpoint_id, checkpoint_id), (Job.method, method))
        for column, value in filters:
            if value is not None:
                query = query.where(column == value)
        if after is not None:
            query = query.where(Job.id < after)
        rows = self._session.scalars(query.order_by(Job.id.desc()).limit(limit + 1)).all()
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    def waiting_for(self, upload_id: str) -> list[str]:
        """Ids of the queued jobs that use this checkpoint or dataset."""
        uses = (Job.checkpoint_id == upload_id) | (Job.dataset_id == upload_id)
        return list(
            self._session.scalars(select(Job.id).where(uses, Job.status == "queued").order_by(Job.id))
        )

    def census(self) -> tuple[dict[str, int], datetime | None]:
        """How many jobs have each status, and since when the one that waits longest has waited."""
        counts = self._session.execute(select(Job.status, func.count()).group_by(Job.status))
        found = {row[0]: row[1] for row in counts}
        # A queued row changes when it is submitted and when it is queued again, and at no other time.
        oldest = self._session.scalar(select(func.min(Job.updated_at)).where(Job.status == "queued"))
        return dict.fromkeys(STATUSES, 0) | found, oldest

    def events(self, job_id: str, after_id: int = 0, limit: int = 100) -> Sequence[JobEvent]:
        """Oldest first."""
        query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after_id)
        return self._session.scalars(query.order_by(JobEvent.id).limit(limit)).all()

    # --- the owner's side

    def add(self, row: Job) -> Job:
        """Its checkpoint and dataset must be held (`hold`), else the database may refuse it."""
        self._session.add(row)
        self._session.flush()
        self._tell(row.id, "status", {"status": row.status})
        return row

    def request_cancel(self, id: str) -> str | None:
        """The status after the request: a queued job is canceled at once, a running one is asked.

        None when there is no such job. Raises AlreadyEnded.
        """
        if self._move("canceled", Job.id == id, Job.status == "queued", **_ended()):
            return "canceled"
        asked = update(Job).where(Job.id == id, Job.status == "running", Job.cancel_requested_at.is_(None))
        self._session.execute(asked.values(cancel_requested_at=utc_now(), updated_at=utc_now()))
        status = self._session.scalar(select(Job.status).where(Job.id == id))
        if status in ENDED:
            raise AlreadyEnded(f"The job has already {status if status != 'canceled' else 'been canceled'}.")
        return status

    def delete(self, id: str) -> bool:
        """With its artifacts, events and deliveries. False when there is none. Raises JobUnfinished."""
        ended = delete(Job).where(Job.id == id, Job.status.in_(ENDED)).returning(Job.id)
        if self._session.scalar(ended.execution_options(synchronize_session=False)) is not None:
            return True
        status = self._session.scalar(select(Job.status).where(Job.id == id))
        if status is not None:
            raise JobUnfinished(f"The job is {status}. Cancel it, or wait until it has ended.")
        return False

    # --- the worker's side

    def claim(self, id: str, worker: str, lease_seconds: float) -> Claim | None:
        """queued -> running, for one caller only. None when there is nothing to do (yet)."""
        now = utc_now()
        claimed = self._move(
            "running",
            Job.id == id,
            Job.cancel_requested_at.is_(None),
            exists().where(Checkpoint.id == Job.checkpoint_id, Checkpoint.state == "ready"),
            Job.dataset_id.is_(None) | exists().where(Dataset.id == Job.dataset_id, Dataset.state == "ready"),
            fence=Job.fence + 1,
            attempt=Job.attempt + 1,
            worker=worker,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            started_at=now,
        )
        if not claimed:
            return None
        job = self._session.get_one(Job, id, populate_existing=True)
        return Claim(job, job.fence)

    def heartbeat(
        self,
        id: str,
        fence: int,
        lease_seconds: float,
        *,
        phase: str | None = None,
        progress: JsonObject | None = None,
        metrics: JsonObject | None = None,
    ) -> Beat:
        """Keeps the lease alive and records news; what is None stays as it was."""
        before = self._session.execute(select(Job.phase).where(*_held(id, fence))).one_or_none()
        now = utc_now()
        news = {"phase": phase, "progress": progress, "metrics": metrics}
        values = {key: value for key, value in news.items() if value is not None}
        beat = (
            update(Job)
            .where(*_held(id, fence))
            .values(lease_expires_at=now + timedelta(seconds=lease_seconds), updated_at=now, **values)
            .returning(Job.cancel_requested_at)
            .execution_options(synchronize_session=False)
        )
        row = self._session.execute(beat).one_or_none()
        if row is None:
            return Beat(owned=False, cancel_requested=False)
        if before is not None and phase is not None and phase != before.phase:
            self._tell(id, "phase", {"phase": phase})
        return Beat(owned=True, cancel_requested=row.cancel_requested_at is not None)

    def succeed(self, id: str, fence: int, report: JsonObject, artifacts: Iterable[Artifact]) -> bool:
        """running -> succeeded, with the artifacts, all or nothing. False for a stale fence."""
        if not self._move("succeeded", *_held(id, fence), report=report, progress=_DONE, **_ended()):
            return False
        for artifact in artifacts:
            artifact.job_id = id
            self._session.add(artifact)
        return True

    def fail(self, id: str, fence: int, error: JsonObject) -> bool:
        """running -> failed. False for a stale fence."""
        return bool(self._move("failed", *_held(id, fence), error=error, **_ended()))

    def cancel_running(self, id: str, fence: int) -> bool:
        """running -> canceled, by the worker that stopped it. False for a stale fence."""
        return bool(self._move("canceled", *_held(id, fence), **_ended()))

    def requeue(self, id: str, fence: int) -> bool:
        """running -> queued: the worker hands the job back. False for a stale fence.

        Or -> canceled, when that was asked and the worker had not heard of it: no claim takes such a job.
        """
        if self._move("canceled", *_held(id, fence), Job.cancel_requested_at.is_not(None), **_ended()):
            return False
        return bool(self._move("queued", *_held(id, fence), **_queued_again()))

    # --- the sweep

    def sweep(self, now: datetime, max_attempts: int, stale_seconds: float = 60.0) -> SweepResult:
        """Puts right what a dead worker or a lost message left behind.

        Jobs whose lease ran out are canceled if that was asked, failed after `max_attempts`, else
        queued again. Queued jobs that could run and were last sent `stale_seconds` ago are `stale`.
        """
        lost = (Job.status == "running", Job.lease_expires_at < now)
        canceled = self._move("canceled", *lost, Job.cancel_requested_at.is_not(None), **_ended())
        exhausted = {
            "code": "attempts_exhausted",
            "detail": f"The worker was lost in each of {max_attempts} attempts.",
            "retryable": True,
            "field": None,
        }
        failed = self._move("failed", *lost, Job.attempt >= max_attempts, error=exhausted, **_ended())
        requeued = self._move("queued", *lost, **_queued_again())
        rejected = self.fail_rejected()
        sent_again = (
            update(Job)
            .where(
                Job.status == "queued",
                Job.enqueued_at < now - timedelta(seconds=stale_seconds),
                exists().where(Checkpoint.id == Job.checkpoint_id, Checkpoint.state == "ready"),
                Job.dataset_id.is_(None)
                | exists().where(Dataset.id == Job.dataset_id, Dataset.state == "ready"),
            )
            .values(enqueued_at=now, updated_at=Job.updated_at)
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
        stale = sorted(self._session.scalars(sent_again))
        return SweepResult(requeued, failed, canceled, stale, rejected)

    def fail_rejected(self) -> list[str]:
        """Fails the queued jobs whose checkpoint or dataset was rejected; returns their ids."""
        ids: list[str] = []
        for table, column, noun in (
            (Checkpoint, Job.checkpoint_id, "checkpoint"),
            (Dataset, Job.dataset_id, "dataset"),
        ):
            query = select(Job.id, table.error).join(table, column == table.id)
            for id, why in self._session.execute(
                query.where(Job.status == "queued", table.state == "rejected")
            ).all():
                error = {
                    "code": f"{noun}_rejected",
                    "detail": f"The {noun} was rejected: {(why or {}).get('detail', 'no reason recorded')}",
                    "retryable": False,
                    "field": f"{noun}_id" if noun == "checkpoint" else "evaluation.dataset_id",
                }
                ids += self._move("failed", Job.id == id, Job.status == "queued", error=error, **_ended())
        return ids

    # --- the one way that a status changes

    def _move(self, status: str, *conditions: ColumnElement[bool], **values: Any) -> list[str]:
        """Moves every job that meets the conditions and may become `status`; returns their ids."""
        moved = (
            update(Job)
            .where(Job.status.in_(sources(status)), *conditions)
            .values(status=status, updated_at=utc_now(), **values)
            .returning(Job.id, Job.attempt)
            .execution_options(synchronize_session=False)
        )
        rows = sorted((row.id, row.attempt) for row in self._session.execute(moved))
        for id, attempt in rows:
            data: JsonObject = {"status": status, "attempt": attempt}
            if values.get("error"):
                data["error"] = values["error"]
            self._tell(id, "status", data)
        return [id for id, _ in rows]

    def _tell(self, job_id: str, kind: str, data: JsonObject) -> None:
        self._session.add(JobEvent(job_id=job_id, kind=kind, data=data))


def _held(id: str, fence: int) -> tuple[ColumnElement[bool], ...]:
    return Job.id == id, Job.fence == fence, Job.status == "running"


def _ended() -> dict[str, Any]:
    return {"finished_at": utc_now(), "lease_expires_at": None}


def _queued_again() -> dict[str, Any]:
    return {
        "worker": None,
        "lease_expires_at": None,
        "phase": None,
        "progress": {},
        "metrics": {},
        "enqueued_at": utc_now(),
    }
