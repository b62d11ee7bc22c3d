"""Puts right what lost messages, dead workers and dead brokers leave behind. Runs every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from store.queue import CONTROL_QUEUE, DEVICE_QUEUE
from store.tables import utc_now
from worker import metrics
from worker.services import Services

log = logging.getLogger(__name__)

STALE_SECONDS = 60.0


@dataclass(slots=True)
class Reminders:
    """Lets each id through once in `seconds`: an inspection that merely runs long is not sent again."""

    seconds: float
    _sent: dict[str, float] = field(default_factory=dict)

    def due(self, id: str) -> bool:
        now = time.monotonic()
        self._sent = {known: at for known, at in self._sent.items() if now - at < self.seconds}
        if id in self._sent:
            return False
        self._sent[id] = now
        return True


def sweep(services: Services, waiting: Callable[[str], int], reminders: Reminders) -> None:
    """`waiting` counts a queue's undelivered messages.

    A queued row whose message seems lost is only sent again when nothing waits in its queue:
    otherwise every sweep would add one message for every job behind a long one.
    """
    stale_seconds = min(STALE_SECONDS, services.store.lease_seconds)
    now = utc_now()
    with services.database.write() as work:
        found = work.jobs.sweep(now, services.settings.max_attempts, stale_seconds)
        cutoff = now - timedelta(seconds=stale_seconds)
        checkpoints = work.checkpoints.pending_since(cutoff)
        datasets = work.datasets.pending_since(cutoff)
    metrics.leases_lost(len(found.requeued) + len(found.failed))
    for ids, what in (
        (found.requeued, "queued again: its worker was lost"),
        (found.failed, "failed: its worker was lost once too often"),
        (found.canceled, "canceled: its worker was lost"),
        (found.rejected, "failed: what it needs was rejected"),
    ):
        for id in ids:
            log.warning("%s: %s", id, what, extra={"job_id": id})
    for id in found.requeued:
        services.queue.quantize(id)
    if found.stale and waiting(DEVICE_QUEUE) == 0:
        for id in found.stale:
            services.queue.quantize(id)
    if (checkpoints or datasets) and waiting(CONTROL_QUEUE) == 0:
        for id in filter(reminders.due, checkpoints):
            services.queue.inspect_checkpoint(id)
        for id in filter(reminders.due, datasets):
            services.queue.inspect_dataset(id)
