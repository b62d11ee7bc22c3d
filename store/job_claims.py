"""Who runs next, and who must be run again: claims with a lease and a fence, wake-ups, the sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select, update

from store.job_moves import JobMoves, ended, inputs_ready, queued_again
from store.locks import Lock, lock
from store.tables import Checkpoint, Dataset, Job, utc_now

_WAKE_UPS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """The job is the caller's as long as its writes carry `fence` and the lease is kept alive."""

    job: Job
    fence: int


class Queued(NamedTuple):
    """A job that a message is to be sent for, and where it may run."""

    id: str
    device: str


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Ids by what became of them."""

    requeued: list[str]
    failed: list[str]
    canceled: list[str]
    rejected: list[str]


class JobClaims(JobMoves):
    # --- whose turn it is

    def claim_next(
        self,
        worker: str,
        lease_seconds: float,
        devices: Collection[str],
        running_limit: int | None = None,
    ) -> Claim | None:
        """queued -> running, for one caller only: the oldest job of the owner with the fewest running.

        Owners who have `running_limit` jobs running wait, and so do jobs whose inputs are not ready,
        whose `not_before` has not come, or whose `device` is none of `devices`. None when that leaves no job.
        """
        candidates = self._eligible(running_limit).where(Job.device.in_(devices))
        # One claim at a time: two that counted at once would both find the same owner idle.
        lock(self._session, Lock.CLAIM, "")
        # A job that is canceled between the two statements is no candidate any more.
        while (id := self._session.scalar(candidates.limit(1))) is not None:
            now = utc_now()
            claimed = self._move(
                "running",
                Job.id == id,
                Job.cancel_requested_at.is_(None),
                fence=Job.fence + 1,
                attempt=Job.attempt + 1,
                worker=worker,
                lease_expires_at=now + timedelta(seconds=lease_seconds),
                not_before=None,
                started_at=now,
            )
            if claimed:
                job = self._session.get_one(Job, id, populate_existing=True)
                return Claim(job, job.fence)
        return None

    def _eligible(self, running_limit: int | None) -> Select[Any]:
        """Ids of the jobs that could run now, whose turn it is first."""
        running = (
            select(Job.owner, func.count().label("jobs"))
            .where(Job.status == "running")
            .group_by(Job.owner)
            .subquery()
        )
        count = func.coalesce(running.c.jobs, 0)
        query = select(Job.id).outerjoin(running, running.c.owner == Job.owner).where(*_could_run(utc_now()))
        if running_limit is not None:
            query = query.where(count < running_limit)
        return query.order_by(count, Job.created_at, Job.id)

    # --- wake-ups

    def eligible_by_device(self, running_limit: int | None = None) -> dict[str, int]:
        """How many jobs could run now, by their `device`."""
        could_run = self._eligible(running_limit).order_by(None).subquery()
        query = select(Job.device, func.count()).join(could_run, could_run.c.id == Job.id)
        counts = self._session.execute(query.group_by(Job.device))
        return {str(device): int(count) for device, count in counts}

    def forgotten(self, device: str, before: datetime, running_limit: int | None = None) -> Sequence[str]:
        """Ids of the jobs for `device` that could run now and were last sent before that time, or not yet:
        the first thousand."""
        query = self._eligible(running_limit).where(Job.device == device)
        query = query.where(Job.enqueued_at.is_(None) | (Job.enqueued_at < before))
        return self._session.scalars(query.limit(_WAKE_UPS_AT_ONCE)).all()

    def mark_sent(self, ids: Collection[str]) -> None:
        """Their messages are on their way."""
        sent = update(Job).where(Job.id.in_(ids), Job.status == "queued")
        self._session.execute(sent.values(enqueued_at=utc_now(), updated_at=Job.updated_at))

    def waiting_for(self, upload_id: str) -> Sequence[Queued]:
        """The queued jobs that use this checkpoint or dataset."""
        uses = (Job.checkpoint_id == upload_id) | (Job.dataset_id == upload_id)
        query = select(Job.id, Job.device).where(uses, Job.status == "queued").order_by(Job.id)
        return [Queued(id, device) for id, device in self._session.execute(query)]

    # --- the sweep

    def sweep(self, now: datetime, max_attempts: int) -> SweepResult:
        """Puts right what dead workers and rejected uploads left behind.

        Jobs whose lease ran out are canceled if that was asked, failed after `max_attempts` (those that a
        worker handed back do not count), else queued again.
        """
        silent = (Job.status == "running", Job.lease_expires_at < now)
        canceled = self._move("canceled", *silent, Job.cancel_requested_at.is_not(None), **ended())
        # Who asks for it only now is the next sweep's.
        lost = (*silent, Job.cancel_requested_at.is_(None))
        exhausted = {
            "code": "attempts_exhausted",
            "detail": f"The worker was lost, and {max_attempts} attempts are all that a job gets.",
            "retryable": True,
            "field": None,
        }
        spent = Job.attempt - Job.handbacks >= max_attempts
        failed = self._move("failed", *lost, spent, error=exhausted, **ended())
        why = {
            "code": "worker_lost",
            "detail": "The worker was silent for longer than its lease.",
            "retryable": True,
            "field": None,
        }
        again = {**queued_again(), "enqueued_at": None}
        requeued = self._move("queued", *lost, told={"error": why}, **again)
        return SweepResult(requeued, failed, canceled, self.fail_rejected())

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
                ids += self._move("failed", Job.id == id, Job.status == "queued", error=error, **ended())
        return ids


def _could_run(now: datetime) -> tuple[ColumnElement[bool], ...]:
    due = Job.not_before.is_(None) | (Job.not_before <= now)
    return Job.status == "queued", Job.cancel_requested_at.is_(None), due, *inputs_ready()
