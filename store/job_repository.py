"""Queries over jobs: what their owners and the workers that run them read and write.

Claims and the sweep stand in `store.job_claims`, the one way that a status changes in `store.job_moves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import defer

from store.errors import AlreadyEnded, JobUnfinished
from store.job_claims import JobClaims
from store.job_moves import ended, held, queued_again
from store.paging import page
from store.tables import Artifact, Job, JobEvent, JsonObject, utc_now
from store.transitions import ENDED, STATUSES

_WITHOUT_REPORT = defer(Job.report, raiseload=True)
_DONE = {"fraction": 1.0, "step": 0, "steps": 0, "eta_seconds": 0.0}


@dataclass(frozen=True, slots=True)
class Beat:
    """`owned` is false when the job was taken away: stop, and write nothing more."""

    owned: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """`owned` as of a beat; `replaced` is the sha256 of what the job would have gone on from so far."""

    owned: bool
    replaced: str | None = None


class JobRepository(JobClaims):
    # --- reading

    def get(self, id: str) -> Job | None:
        return self._session.scalars(select(Job).where(Job.id == id)).one_or_none()

    def of_owner(self, id: str, owner: str) -> Job | None:
        """Without its report, which is large, and which few ask for."""
        query = select(Job).where(Job.id == id, Job.owner == owner).options(_WITHOUT_REPORT)
        return self._session.scalars(query).one_or_none()

    def report(self, id: str) -> JsonObject | None:
        return self._session.scalar(select(Job.report).where(Job.id == id))

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
        query = select(Job).where(Job.owner == owner).options(_WITHOUT_REPORT)
        filters = ((Job.status, status), (Job.checkpoint_id, checkpoint_id), (Job.method, method))
        for column, value in filters:
            if value is not None:
                query = query.where(column == value)
        return page(self._session, query, Job.id, limit, after)

    def duplicate(self, owner: str, digest: str) -> Job | None:
        """The owner's newest succeeded job that computed the same, else the newest that will.

        One that is about to be canceled will not. Without its report.
        """
        query = (
            select(Job)
            .where(
                Job.owner == owner,
                Job.digest == digest,
                Job.status.in_(("queued", "running", "succeeded")),
                (Job.status == "succeeded") | Job.cancel_requested_at.is_(None),
            )
            .options(_WITHOUT_REPORT)
            .order_by((Job.status == "succeeded").desc(), Job.id.desc())
            .limit(1)
        )
        return self._session.scalars(query).one_or_none()

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

        Asking twice is no error. None when there is no such job. Raises AlreadyEnded when it succeeded or
        failed.
        """
        # Held: else a job that its worker hands back meanwhile is neither of the two.
        status = self._session.scalar(select(Job.status).where(Job.id == id).with_for_update())
        if status == "queued":
            self._move("canceled", Job.id == id, **ended())
            return "canceled"
        if status == "running":
            asked = update(Job).where(Job.id == id, Job.cancel_requested_at.is_(None))
            self._session.execute(asked.values(cancel_requested_at=utc_now(), updated_at=utc_now()))
        elif status in ENDED - {"canceled"}:
            raise AlreadyEnded(f"The job has already {status}.")
        return status

    def delete(self, id: str) -> bool:
        """With its artifacts, events and deliveries. False when there is none. Raises JobUnfinished."""
        gone = delete(Job).where(Job.id == id, Job.status.in_(ENDED)).returning(Job.id)
        if self._session.scalar(gone.execution_options(synchronize_session=False)) is not None:
            return True
        status = self._session.scalar(select(Job.status).where(Job.id == id))
        if status is not None:
            raise JobUnfinished(f"The job is {status}. Cancel it, or wait until it has ended.")
        return False

    # --- the worker's side

    def heartbeat(
        self,
        id: str,
        fence: int,
        lease_seconds: float,
        *,
        ran_seconds: float | None = None,
        phase: str | None = None,
        progress: JsonObject | None = None,
        metrics: JsonObject | None = None,
    ) -> Beat:
        """Keeps the lease alive and records news; what is None stays as it was."""
        before = self._session.execute(select(Job.phase).where(*held(id, fence))).one_or_none()
        now = utc_now()
        news = {"ran_seconds": ran_seconds, "phase": phase, "progress": progress, "metrics": metrics}
        values = {key: value for key, value in news.items() if value is not None}
        beat = (
            update(Job)
            .where(*held(id, fence))
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
        if not self._move("succeeded", *held(id, fence), report=report, progress=_DONE, **ended()):
            return False
        for artifact in artifacts:
            artifact.job_id = id
            self._session.add(artifact)
        return True

    def fail(self, id: str, fence: int, error: JsonObject) -> bool:
        """running -> failed. False for a stale fence."""
        return bool(self._move("failed", *held(id, fence), error=error, **ended()))

    def cancel_running(self, id: str, fence: int) -> bool:
        """running -> canceled, by the worker that stopped it. False for a stale fence."""
        return bool(self._move("canceled", *held(id, fence), **ended()))

    def hand_back(self, id: str, fence: int, ran_seconds: float) -> str | None:
        """running -> queued: the worker is told to stop, and this attempt does not count.

        The status that it has then, None for a stale fence: canceled, when that was asked and the worker
        had not heard of it, since no claim takes such a job.
        """
        again = {**queued_again(), "handbacks": Job.handbacks + 1, "ran_seconds": ran_seconds}
        return self._queue_again(id, fence, {"handed_back": True}, again)

    def retry(
        self,
        id: str,
        fence: int,
        error: JsonObject,
        delay_seconds: float,
        ran_seconds: float,
        *,
        counts: bool = True,
    ) -> str | None:
        """running -> queued after a failure that may pass, not to be claimed before `delay_seconds` from now.

        The attempt `counts`, unless the worker's machine was at fault: then it is one that was handed back.
        The status that it has then, as in `hand_back`.
        """
        told: JsonObject = {"error": error} if counts else {"error": error, "handed_back": True}
        again = {
            **queued_again(),
            "enqueued_at": None,
            "not_before": utc_now() + timedelta(seconds=delay_seconds),
            "ran_seconds": ran_seconds,
            "handbacks": Job.handbacks + (0 if counts else 1),
        }
        return self._queue_again(id, fence, told, again)

    def _queue_again(self, id: str, fence: int, told: JsonObject, values: dict[str, Any]) -> str | None:
        # Held: no cancel may come between the question and the move, nobody would hear of it.
        query = select(Job.id, Job.cancel_requested_at).where(*held(id, fence)).with_for_update()
        row = self._session.execute(query).one_or_none()
        if row is None:
            return None
        if row.cancel_requested_at is not None:
            self._move("canceled", *held(id, fence), **ended())
            return "canceled"
        self._move("queued", *held(id, fence), told=told, **values)
        return "queued"

    # --- what the next attempt goes on from

    def keep(self, id: str, fence: int, sha256: str) -> Kept:
        """Records the blob that the next attempt resumes from. Changes nothing for a stale fence."""
        row = self._session.execute(
            select(Job.resume_sha256).where(*held(id, fence)).with_for_update()
        ).one_or_none()
        if row is None:
            return Kept(owned=False)
        self._session.execute(update(Job).where(*held(id, fence)).values(resume_sha256=sha256))
        return Kept(owned=True, replaced=row.resume_sha256 if row.resume_sha256 != sha256 else None)

    def ended_with_resume(self, limit: int = 100) -> Sequence[tuple[str, str]]:
        """Ended jobs that still name a blob to resume from: id and sha256."""
        query = select(Job.id, Job.resume_sha256).where(Job.resume_sha256.is_not(None), Job.status.in_(ENDED))
        return [(id, sha256) for id, sha256 in self._session.execute(query.limit(limit)) if sha256]

    def forget_resume(self, id: str, sha256: str) -> None:
        """An ended job names the blob no more."""
        named = update(Job).where(Job.id == id, Job.resume_sha256 == sha256, Job.status.in_(ENDED))
        self._session.execute(named.values(resume_sha256=None, updated_at=Job.updated_at))
