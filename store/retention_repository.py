"""Deletes rows that nobody wants to keep any longer. Bytes are the collector's.

Each call deletes at most `limit` rows and returns how many, so that no transaction grows long. Rows
that another transaction holds are left to the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.tables import Base, Checkpoint, Dataset, IdempotencyKey, Job, JobEvent, PartialUpload, Upload
from store.transitions import ENDED, UNFINISHED


class RetentionRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def drop_jobs(self, ended_before: datetime, limit: int) -> int:
        """With their artifacts, events and deliveries."""
        return self._drop(Job, [Job.id], limit, Job.status.in_(ENDED), Job.finished_at < ended_before)

    def drop_checkpoints(self, unused_since: datetime, limit: int) -> int:
        """Those that no job has used, and that nobody has sent, since then. Unfinished jobs keep theirs."""
        return self._drop(Checkpoint, [Checkpoint.id], limit, *_unused(Checkpoint, unused_since))

    def drop_datasets(self, unused_since: datetime, limit: int) -> int:
        """As `drop_checkpoints`."""
        return self._drop(Dataset, [Dataset.id], limit, *_unused(Dataset, unused_since))

    def drop_events(self, older_than: datetime, limit: int) -> int:
        """Those of ended jobs; who follows an unfinished one needs them all."""
        ended = exists().where(Job.id == JobEvent.job_id, Job.status.in_(ENDED))
        return self._drop(JobEvent, [JobEvent.id], limit, JobEvent.at < older_than, ended)

    def drop_idempotency_keys(self, older_than: datetime, limit: int) -> int:
        keys = [IdempotencyKey.owner, IdempotencyKey.key]
        return self._drop(IdempotencyKey, keys, limit, IdempotencyKey.created_at < older_than)

    def drop_partial_uploads(self, now: datetime, limit: int) -> int:
        """Those that have expired, with their parts."""
        return self._drop(PartialUpload, [PartialUpload.id], limit, PartialUpload.expires_at < now)

    def _drop(
        self,
        table: type[Base],
        key: Sequence[InstrumentedAttribute[Any]],
        limit: int,
        *conditions: ColumnElement[bool],
    ) -> int:
        due = select(*key).where(*conditions).order_by(*key).limit(limit).with_for_update(skip_locked=True)
        found = [tuple(row) for row in self._session.execute(due)]
        if not found:
            return 0
        # The conditions once more: what changed before the rows were locked is visible only now.
        gone = delete(table).where(tuple_(*key).in_(found), *conditions).returning(*key)
        return len(self._session.execute(gone.execution_options(synchronize_session=False)).all())


def _unused(table: type[Upload], since: datetime) -> tuple[ColumnElement[bool], ...]:
    mine = Job.checkpoint_id if table is Checkpoint else Job.dataset_id
    used = exists().where(mine == table.id, Job.status.in_(UNFINISHED) | (Job.finished_at >= since))
    return table.updated_at < since, ~used
