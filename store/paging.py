"""Lists by cursor, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


def page(
    session: Session, query: Select[Row], id: InstrumentedAttribute[str], limit: int, after: str | None
) -> tuple[Sequence[Row], str | None]:
    """At most `limit` rows, with the cursor of the next page; `after` is the cursor of the page before.

    Ids sort by the time they were made.
    """
    if after is not None:
        query = query.where(id < after)
    rows = session.scalars(query.order_by(id.desc()).limit(limit + 1)).all()
    return rows[:limit], str(getattr(rows[limit - 1], id.key)) if len(rows) > limit else None
