"""The handlers of every message: a name and an id, nothing else. A job's id only says that there is work."""

from __future__ import annotations

import logging

from store.queue import COLLECT, INSPECT_CHECKPOINT, INSPECT_DATASET, QUANTIZE
from worker import collect as collecting
from worker import inspections, jobs, retention
from worker.app import app, devices_served
from worker.services import services

log = logging.getLogger(__name__)


@app.task(name=QUANTIZE)  # type: ignore[untyped-decorator]
def quantize(job_id: str) -> None:
    jobs.run_jobs(services(), devices_served())


@app.task(name=INSPECT_CHECKPOINT)  # type: ignore[untyped-decorator]
def inspect_checkpoint(id: str) -> None:
    inspections.inspect(services(), "checkpoint", id)


@app.task(name=INSPECT_DATASET)  # type: ignore[untyped-decorator]
def inspect_dataset(id: str) -> None:
    inspections.inspect(services(), "dataset", id)


@app.task(name=COLLECT)  # type: ignore[untyped-decorator]
def collect() -> None:
    try:
        retention.expire(services())
    except Exception:  # whatever a driver raises: bytes are collected all the same
        log.exception("could not delete the rows that have been kept for long enough")
    collecting.collect(services())
