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

    def begin_inspection(self, id: str, max_attempts: int) -> datetime | None:
        """Counts an attempt and gives its mark. None when it is gone or decided, or has had `max_attempts`.

        The mark is `updated_at` as this inspection wrote it last. It holds until the upload is decided or
        sent again or another inspection begins: counted attempts may come to the same number again.
        """
        now = utc_now()
        counted = self.table.attempts + 1
        begun = self._change(id, self.table.attempts < max_attempts, attempts=counted, updated_at=now)
        return now if begun else None

    def keep_inspecting(self, id: str, mark: datetime) -> datetime | None:
        """A sign of life, and the mark from now on. None when the mark does not hold any more."""
        now = utc_now()
        return now if self._change(id, self.table.updated_at == mark, updated_at=now) else None

    def end_inspection(self, id: str, mark: datetime) -> None:
        """It ended without a verdict, so the attempt does not count, if its mark holds."""
        self._change(id, self.table.updated_at == mark, attempts=self.table.attempts - 1)

    def never_inspected(self, max_attempts: int, cutoff: datetime) -> list[tuple[str, datetime]]:
        """Pending uploads whose attempts are spent, without a sign of life since `cutoff`: ids and marks."""
        spent = (self.table.attempts >= max_attempts, self.table.updated_at < cutoff)
        query = select(self.table.id, self.table.updated_at).where(self.table.state == "pending", *spent)
        return [(id, mark) for id, mark in self._session.execute(query)]

    def mark_ready(self, id: str, inspection: JsonObject) -> bool:
        """pending -> ready. False when it is gone or already decided."""
        return self._change(id, state="ready", inspection=inspection)

    def mark_rejected(self, id: str, error: JsonObject, mark: datetime | None = None) -> bool:
        """pending -> rejected. False when it is gone or already decided, or `mark` does not hold any more.

        What is said of the content holds for ever; of what became of the bytes only with the mark, since
        they may have been sent again.
        """
        holds = () if mark is None else (self.table.updated_at == mark,)
        return self._change(id, *holds, state="rejected", error=error)

    def renew(self, held: UploadRow) -> None:
        """Its bytes have come once more: unless it is ready, it is inspected as if it were new."""
        held.updated_at = utc_now()  # retention counts from here
        if held.state != "ready":
            held.state, held.error, held.attempts = "pending", None, 0
        # Who holds this row may wait for a lock that the transaction takes later: never write it only then.
        self._session.flush()

    def pending_since(self, made: datetime, alive: datetime) -> list[str]:
        """Ids of pending uploads that nobody inspects: made before `made` and no inspection counted, or
        without a sign of life since `alive`."""
        unseen = (self.table.attempts == 0) & (self.table.created_at < made)
        nobody = unseen | (self.table.updated_at < alive)
        query = select(self.table.id).where(self.table.state == "pending", nobody)
        return list(self._session.scalars(query.order_by(self.table.id)))

    def _change(self, id: str, *conditions: ColumnElement[bool], **values: Any) -> bool:
        """Whether it was pending, and what else is asked for."""
        pending = (self.table.id == id, self.table.state == "pending", *conditions)
        values = {"updated_at": utc_now(), **values}
        return changed_one(self._session.execute(update(self.table).where(*pending).values(**values)))

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
