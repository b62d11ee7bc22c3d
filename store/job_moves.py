"""The one way that a job's status changes: a conditional UPDATE, with the event that tells of it.

The UPDATE happens once however many try, and the event stands in the same transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, exists, update
from sqlalchemy.orm import Session

from store.tables import Checkpoint, Dataset, Job, JobEvent, JsonObject, utc_now
from store.transitions import ENDED, sources
from store.webhook_repository import delivery_columns, new_delivery


class JobMoves:
    def __init__(self, session: Session) -> None:
        self._session = session

    def _move(
        self,
        status: str,
        *conditions: ColumnElement[bool],
        told: JsonObject | None = None,
        **values: Any,
    ) -> list[str]:
        """Moves every job that meets the conditions and may become `status`; returns their ids.

        The event has the attempt, the error if there is one, and what is `told` beside. Whoever wants
        to hear of a job's end is to be told of it: a delivery is due.
        """
        moved = (
            update(Job)
            .where(Job.status.in_(sources(status)), *conditions)
            .values(status=status, updated_at=utc_now(), **values)
            .returning(Job.attempt, *delivery_columns())
            .execution_options(synchronize_session=False)
        )
        rows = sorted(self._session.execute(moved), key=lambda row: row.id)
        error = values.get("error")
        for row in rows:
            data: JsonObject = {"status": status, "attempt": row.attempt, **(told or {})}
            if error:
                data["error"] = error
            self._tell(row.id, "status", data)
            if status in ENDED and row.webhook_url is not None:
                self._session.add(new_delivery(row, status, error, utc_now()))
        return [row.id for row in rows]

    def _tell(self, job_id: str, kind: str, data: JsonObject) -> None:
        self._session.add(JobEvent(job_id=job_id, kind=kind, data=data))


def held(id: str, fence: int) -> tuple[ColumnElement[bool], ...]:
    """Running, and still the claim's that was given this fence."""
    return Job.id == id, Job.fence == fence, Job.status == "running"


def inputs_ready() -> tuple[ColumnElement[bool], ...]:
    """Its checkpoint was inspected, and its dataset if it has one."""
    return (
        exists().where(Checkpoint.id == Job.checkpoint_id, Checkpoint.state == "ready"),
        Job.dataset_id.is_(None) | exists().where(Dataset.id == Job.dataset_id, Dataset.state == "ready"),
    )


def ended() -> dict[str, Any]:
    return {"finished_at": utc_now(), "lease_expires_at": None, "not_before": None}


def queued_again() -> dict[str, Any]:
    return {
        "worker": None,
        "lease_expires_at": None,
        "not_before": None,
        "phase": None,
        "progress": {},
        "metrics": {},
        "enqueued_at": utc_now(),
    }
