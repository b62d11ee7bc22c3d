"""Queries over webhooks: each owner's secret, and the deliveries of ended jobs."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.tables import Job, WebhookDelivery, WebhookSecret, new_id, utc_now


def new_delivery(job: Any, status: str, error: dict[str, Any] | None, at: datetime) -> WebhookDelivery:
    """Word of a job's end, to be added in the transaction that ends it.

    `job` has id, owner, webhook_url, checkpoint_id and labels. The payload is thin: whoever wants
    more asks the API, which knows it for sure.
    """
    data = {
        "job_id": job.id,
        "status": status,
        "error": error,
        "checkpoint_id": job.checkpoint_id,
        "labels": job.labels,
        "finished_at": at.isoformat(),
    }
    return WebhookDelivery(
        id=new_id("msg"),
        owner=job.owner,
        job_id=job.id,
        url=job.webhook_url,
        payload={"type": f"job.{status}", "timestamp": at.isoformat(), "data": data},
    )


class WebhookRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    # --- secrets

    def secret(self, owner: str) -> str:
        """`whsec_` and 32 random bytes in base64; made when first asked for."""
        self._session.execute(self._insert(owner).on_conflict_do_nothing())
        return self._session.scalars(_secret_of(owner)).one()

    def renew_secret(self, owner: str) -> str:
        insert = self._insert(owner)
        new = {"secret": insert.excluded.secret, "created_at": insert.excluded.created_at}
        self._session.execute(insert.on_conflict_do_update(index_elements=["owner"], set_=new))
        return self._session.scalars(_secret_of(owner)).one()

    def _insert(self, owner: str) -> sqlite.Insert | postgresql.Insert:
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        return insert(WebhookSecret).values(owner=owner, secret=secret, created_at=utc_now())

    # --- deliveries

    def of_job(self, job_id: str) -> Sequence[WebhookDelivery]:
        query = select(WebhookDelivery).where(WebhookDelivery.job_id == job_id)
        return self._session.scalars(query.order_by(WebhookDelivery.id)).all()

    def take_due(self, now: datetime, limit: int, lease: timedelta) -> Sequence[WebhookDelivery]:
        """Deliveries that are due, for this caller alone until the lease is over: a try has begun.

        Owners take turns, each with its oldest first: one who has thousands waiting, at a receiver that
        never answers, leaves room for all others. Whoever dies in between leaves them due again, so
        receivers may hear of an end twice.
        """
        is_due = (WebhookDelivery.status == "pending", WebhookDelivery.next_at <= now)
        oldest = (WebhookDelivery.next_at, WebhookDelivery.id)
        turn = func.row_number().over(partition_by=WebhookDelivery.owner, order_by=oldest)
        # Apart, since rows that a window function looks at cannot be locked in the same query.
        turns = select(WebhookDelivery.id, turn.label("turn")).where(*is_due).subquery()
        due = (
            select(WebhookDelivery)
            .join(turns, turns.c.id == WebhookDelivery.id)
            # Again, since another caller may have taken it in between: that is asked of the locked row.
            .where(*is_due)
            .order_by(turns.c.turn, *oldest)
            .limit(limit)
            .with_for_update(of=WebhookDelivery, skip_locked=True)
        )
        rows = self._session.scalars(due).all()
        for row in rows:
            row.attempts += 1
            row.next_at = now + lease
        return rows

    def delivered(self, id: str, attempt: int) -> None:
        self._end(id, attempt, status="delivered", error=None)

    def failed(self, id: str, attempt: int, error: str, again_at: datetime | None) -> None:
        """Due again at `again_at`; given up when that is None."""
        if again_at is None:
            self._end(id, attempt, status="failed", error=error[:500])
        else:
            self._end(id, attempt, next_at=again_at, error=error[:500])

    def _end(self, id: str, attempt: int, **values: Any) -> None:
        # A try that outlived its lease has been repeated by now: what it says no longer counts.
        its = (WebhookDelivery.id == id, WebhookDelivery.attempts == attempt)
        self._session.execute(
            update(WebhookDelivery).where(*its, WebhookDelivery.status == "pending").values(**values)
        )


def delivery_columns() -> tuple[Any, ...]:
    """What `new_delivery` needs to know of a job."""
    return Job.id, Job.owner, Job.webhook_url, Job.checkpoint_id, Job.labels


def _secret_of(owner: str) -> Select[str]:
    return select(WebhookSecret.secret).where(WebhookSecret.owner == owner)
