"""Puts right what lost messages, dead workers and dead brokers leave behind. Runs every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from store.queue import CONTROL_QUEUE, DEVICE_QUEUES
from store.tables import utc_now
from worker import metrics
from worker.inspections import reject_never_inspected
from worker.resume import release_ended
from worker.services import Services

log = logging.getLogger(__name__)

STALE_SECONDS = 60.0


@dataclass(slots=True)
class Reminders:
    """Lets each id through once in `seconds`: what cannot be inspected just now is not tried all the time."""

    seconds: float
    _sent: dict[str, float] = field(default_factory=dict)

    def due(self, id: str) -> bool:
        now = time.monotonic()
        self._sent = {known: at for known, at in self._sent.items() if now - at < self.seconds}
        if id in self._sent:
            return False
        self._sent[id] = now
        return True


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the steps work with. `waiting` counts a queue's undelivered messages."""

    services: Services
    waiting: Callable[[str], int]
    reminders: Reminders

    @property
    def stale_seconds(self) -> float:
        """A message that was sent so long ago, and is not waiting, may be lost."""
        return min(STALE_SECONDS, self.services.store.lease_seconds)


def sweep(services: Services, waiting: Callable[[str], int], reminders: Reminders) -> None:
    """Takes every step, whatever becomes of the others."""
    context = Sweep(services, waiting, reminders)
    for step in STEPS:
        try:
            step(context)
        except Exception:  # whatever a driver raises: the next sweep tries again
            log.exception("the sweep could not %s", step.__name__.replace("_", " "))


def end_lost_attempts(context: Sweep) -> None:
    services = context.services
    with services.database.write() as work:
        found = work.jobs.sweep(utc_now(), services.settings.max_attempts)
    metrics.leases_lost(len(found.requeued) + len(found.failed))
    for ids, what in (
        (found.requeued, "queued again: its worker was lost"),
        (found.failed, "failed: its worker was lost once too often"),
        (found.canceled, "canceled: its worker was lost"),
        (found.rejected, "failed: what it needs was rejected"),
    ):
        for id in ids:
            log.warning("%s: %s", id, what, extra={"job_id": id})


def wake_workers(context: Sweep) -> None:
    """Sends for jobs whose time has come, and for those whose message seems lost.

    No more than a queue's jobs that could run have messages waiting: every sweep would otherwise add one
    for every job behind a long one.
    """
    services, limit = context.services, context.services.settings.owner_running_jobs
    before = utc_now() - timedelta(seconds=context.stale_seconds)
    with services.database.read() as work:
        eligible = work.jobs.eligible_by_device(limit)
        forgotten = {device: work.jobs.forgotten(device, before, limit) for device in DEVICE_QUEUES}
    for device, found in forgotten.items():
        if not found:
            continue
        # A job whose time has come since they were counted may be the first of its device.
        lacking = eligible.get(device, 0) - context.waiting(DEVICE_QUEUES[device])
        ids = found[: max(0, lacking)]
        for id in ids:
            services.queue.quantize(id, device)
        if ids:
            log.info("woke workers for %d jobs on %s", len(ids), DEVICE_QUEUES[device])
            with services.database.write() as work:
                work.jobs.mark_sent(ids)


def remind_of_inspections(context: Sweep) -> None:
    """Sends for uploads whose message or worker seems lost. What is being inspected shows that it is."""
    services, now = context.services, utc_now()
    made = now - timedelta(seconds=context.stale_seconds)
    alive = now - timedelta(seconds=services.store.lease_seconds)
    with services.database.read() as work:
        checkpoints = work.checkpoints.pending_since(made, alive)
        datasets = work.datasets.pending_since(made, alive)
    if (checkpoints or datasets) and context.waiting(CONTROL_QUEUE) == 0:
        for id in filter(context.reminders.due, checkpoints):
            services.queue.inspect_checkpoint(id)
        for id in filter(context.reminders.due, datasets):
            services.queue.inspect_dataset(id)


def reject_what_kills_workers(context: Sweep) -> None:
    reject_never_inspected(context.services)


def release_what_was_kept(context: Sweep) -> None:
    release_ended(context.services)


STEPS: tuple[Callable[[Sweep], None], ...] = (
    end_lost_attempts,
    wake_workers,
    remind_of_inspections,
    reject_what_kills_workers,
    release_what_was_kept,
)
