"""The handlers of every message: a name and an id, nothing else. A job's id only says that there is work."""

from __future__ import annotations

from functools import cache

from store import tracing
from store.queue import COLLECT, DELIVER, INSPECT_CHECKPOINT, INSPECT_DATASET, QUANTIZE, SWEEP
from worker import collect as collecting
from worker import inspections, jobs, retention, webhooks
from worker import sweep as sweeping
from worker.app import app, devices_served, messages_waiting
from worker.services import services


@app.task(name=QUANTIZE)  # type: ignore[untyped-decorator]
def quantize(job_id: str) -> None:
    jobs.run_jobs(services(), devices_served())


@app.task(name=INSPECT_CHECKPOINT)  # type: ignore[untyped-decorator]
def inspect_checkpoint(id: str) -> None:
    inspections.inspect(services(), "checkpoint", id)


@app.task(name=INSPECT_DATASET)  # type: ignore[untyped-decorator]
def inspect_dataset(id: str) -> None:
    inspections.inspect(services(), "dataset", id)


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]
def sweep() -> None:
    with tracing.untraced():
        sweeping.sweep(services(), messages_waiting, _reminders())


@app.task(name=COLLECT)  # type: ignore[untyped-decorator]
def collect() -> None:
    retention.expire(services())
    collecting.collect(services())


@app.task(name=DELIVER)  # type: ignore[untyped-decorator]
def deliver() -> None:
    with tracing.untraced():
        webhooks.deliver_due(services())


@cache
def _reminders() -> sweeping.Reminders:
    return sweeping.Reminders(services().settings.inspection_seconds)
