"""Queries over checkpoints, datasets and artifacts; jobs have a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, CursorResult, delete, select, update
from sqlalchemy.orm import Session

from store.errors import InUse
from store.paging import page
from store.tables import Artifact, Checkpoint, Dataset, Job, JsonObject, Upload, utc_now
from store.transitions import UNFINISHED

UploadRow = TypeVar("UploadRow", bound=Upload)


def changed_one(result: Any) -> bool:
    """Whether a conditional UPDATE hit its row."""
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


class UploadRepository(Generic[UploadRow]):
    table: type[UploadRow]
    noun: str

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: UploadRow) -> UploadRow:
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, id: str, owner: str | None = None) -> UploadRow | None:
        query = select(self.table).where(self.table.id == id)
        if owner is not None:
            query = query.where(self.table.owner == owner)
        return self._session.scalars(query).one_or_none()

    def hold(self, id: str, owner: str) -> UploadRow | None:
        """As `get`, and nobody deletes or decides it until this transaction ends.

        So a job that is added on a pending upload is there when `waiting_for` is asked after the
        decision: it cannot be forgotten between the two.
        """
        query = select(self.table).where(self.table.id == id, self.table.owner == owner)
        held = query.with_for_update(read=True).execution_options(populate_existing=True)
        return self._session.scalars(held).one_or_none()

    def by_fingerprint(self, fingerprint: str) -> UploadRow | None:
        query = select(self.table).where(self.table.fingerprint == fingerprint)
        return self._session.scalars(query).one_or_none()

    def page(
        self, owner: str, limit: int, after: str | None = None, **filters: str | None
    ) -> tuple[Sequence[UploadRow], str | None]:
        """Newest first; `after` is the cursor of the page before. A filter of None is no filter."""
        query = select(self.table).where(self.table.owner == owner)
        for column, value in filters.items():
            if value is not None:
                query = query.where(getattr(self.table, column) == value)
        return page(self._session, query, self.table.id, limit, after)

    def delete(self, id: str) -> bool:
        """Raises InUse while an unfinished job needs it. False when there is none."""
        # The lock makes jobs that are being inserted wait, and waits for those not yet committed.
        locked = select(self.table.id).where(self.table.id == id).with_for_update()
        if self._session.scalar(locked) is None:
            return False
        users = select(Job.id).where(self._used_by(id), Job.status.in_(UNFINISHED)).limit(1)
        if (user := self._session.scalar(users)) is not None:
            raise InUse(
                f"The unfinished job {user} uses this {self.noun}. Cancel it, or wait until it has ended.",
                code=f"{self.noun}_in_use",
            )
        self._session.execute(delete(self.table).where(self.table.id == id))
        return True

    def begin_inspection(self, id: str, max_attempts: int) -> bool:
        """Counts an attempt. False when it is gone or decided, or has had `max_attempts`."""
        allowed = (self.table.id == id, self.table.state == "pending", self.table.attempts < max_attempts)
        counted = {"attempts": self.table.attempts + 1, "updated_at": utc_now()}
        return changed_one(self._session.execute(update(self.table).where(*allowed).values(**counted)))

    def end_inspection(self, id: str) -> None:
        """It ended without a verdict, so the attempt does not count."""
        pending = (self.table.id == id, self.table.state == "pending", self.table.attempts > 0)
        self._session.execute(
            update(self.table).where(*pending).values(attempts=self.table.attempts - 1, updated_at=utc_now())
        )

    def never_inspected(self, max_attempts: int, cutoff: datetime) -> list[str]:
        """Ids of pending uploads whose attempts are spent, the last of them begun before `cutoff`."""
        spent = (self.table.attempts >= max_attempts, self.table.updated_at < cutoff)
        return list(self._session.scalars(select(self.table.id).where(self.table.state == "pending", *spent)))

    def mark_ready(self, id: str, inspection: JsonObject) -> bool:
        """pending -> ready. False when it is gone or already decided."""
        return self._decide(id, state="ready", inspection=inspection)

    def mark_rejected(self, id: str, error: JsonObject) -> bool:
        """pending -> rejected. False when it is gone or already decided."""
        return self._decide(id, state="rejected", error=error)

    def renew(self, held: UploadRow) -> None:
        """Its bytes have come once more: unless it is ready, it is inspected as if it were new."""
        held.updated_at = utc_now()  # retention counts from here
        if held.state != "ready":
            held.state, held.error, held.attempts = "pending", None, 0
        # Who holds this row may wait for a lock that the transaction takes later: never write it only then.
        self._session.flush()

    def _decide(self, id: str, **values: Any) -> bool:
        row = (self.table.id == id, self.table.state == "pending")
        return changed_one(
            self._session.execute(update(self.table).where(*row).values(updated_at=utc_now(), **values))
        )

    def pending_since(self, cutoff: datetime) -> list[str]:
        """Ids of uploads that still wait for inspection and were made before `cutoff`."""
        query = select(self.table.id).where(self.table.state == "pending", self.table.created_at < cutoff)
        return list(self._session.scalars(query.order_by(self.table.id)))

    def _used_by(self, id: str) -> ColumnElement[bool]:
        """Which jobs use this upload."""
        raise NotImplementedError


class CheckpointRepository(UploadRepository[Checkpoint]):
    table = Checkpoint
    noun = "checkpoint"

    def _used_by(self, id: str) -> ColumnElement[bool]:
        return Job.checkpoint_id == id


class DatasetRepository(UploadRepository[Dataset]):
    table = Dataset
    noun = "dataset"

    def _used_by(self, id: str) -> ColumnElement[bool]:
        return Job.dataset_id == id


class ArtifactRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def of_job(self, job_id: str) -> Sequence[Artifact]:
        query = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
        return self._session.scalars(query).all()
