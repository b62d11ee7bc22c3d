"""Deletes rows that have been kept for as long as the settings say. Their bytes are the collector's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from store.database import UnitOfWork
from store.tables import utc_now
from worker.services import Services

log = logging.getLogger(__name__)

# Rows a transaction: short enough for whoever waits behind it on SQLite.
_BATCH = 200

Drop = Callable[[UnitOfWork, datetime, int], int]


def expire(services: Services) -> dict[str, int]:
    """Returns how many rows of each kind went."""
    now = utc_now()
    gone = {}
    for kind, kept, drop in _rules(services):
        gone[kind] = _drop_all(services, drop, now - kept) if kept is not None else 0
        if gone[kind]:
            log.info("%d %s deleted: kept for long enough", gone[kind], kind)
    return gone


def _rules(services: Services) -> list[tuple[str, timedelta | None, Drop]]:
    """Kind, for how long it is kept (None: for ever), and how it goes. Jobs before the uploads they use."""
    settings = services.settings
    jobs, uploads, events = (
        timedelta(days=days) if days is not None else None
        for days in (settings.keep_jobs_days, settings.keep_uploads_days, settings.keep_events_days)
    )
    return [
        ("jobs", jobs, lambda work, before, limit: work.retention.drop_jobs(before, limit)),
        ("checkpoints", uploads, lambda work, before, limit: work.retention.drop_checkpoints(before, limit)),
        ("datasets", uploads, lambda work, before, limit: work.retention.drop_datasets(before, limit)),
        ("events", events, lambda work, before, limit: work.retention.drop_events(before, limit)),
        (
            "idempotency keys",
            timedelta(hours=services.store.idempotency_hours),
            lambda work, before, limit: work.retention.drop_idempotency_keys(before, limit),
        ),
        (
            "partial uploads",
            timedelta(0),
            lambda work, before, limit: work.retention.drop_partial_uploads(before, limit),
        ),
    ]


def _drop_all(services: Services, drop: Drop, before: datetime) -> int:
    total = 0
    while True:
        with services.database.write() as work:
            dropped = drop(work, before, _BATCH)
        total += dropped
        if dropped < _BATCH:
            return total
