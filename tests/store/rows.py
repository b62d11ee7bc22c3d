"""Rows for tests, complete enough for the database."""

from __future__ import annotations

from typing import Any

from store.database import Database, UnitOfWork
from store.job_claims import Claim
from store.tables import Checkpoint, Dataset, Job, new_id


def checkpoint(**values: Any) -> Checkpoint:
    id = new_id("ckpt")
    defaults: dict[str, Any] = {
        "id": id,
        "architecture": "cifar/resnet20",
        "network": {"architecture": "cifar/resnet20"},
        "blob_sha256": "ab" * 32,
        "bytes": 7,
        "fingerprint": id,
        "state": "ready",
    }
    return Checkpoint(**{**defaults, **values})


def dataset(**values: Any) -> Dataset:
    id = new_id("data")
    defaults: dict[str, Any] = {
        "id": id,
        "blob_sha256": "cd" * 32,
        "bytes": 7,
        "fingerprint": id,
        "state": "ready",
    }
    return Dataset(**{**defaults, **values})


def job(checkpoint_id: str, **values: Any) -> Job:
    defaults: dict[str, Any] = {
        "id": new_id("job"),
        "checkpoint_id": checkpoint_id,
        "spec": {"bits": {"weight": 4, "activation": 4}},
        "method": "minmax",
    }
    return Job(**{**defaults, **values})


def queued_job(database: Database, *, state: str = "ready", **values: Any) -> str:
    """A queued job on a checkpoint of its own; returns its id."""
    with database.write() as work:
        row = work.checkpoints.add(checkpoint(state=state))
        return work.jobs.add(job(row.id, **values)).id


def get_job(database: Database, id: str) -> Job:
    with database.read() as work:
        row = work.jobs.get(id)
    assert row is not None
    return row


def claim_job(work: UnitOfWork, id: str, worker: str = "w", lease_seconds: float = 60) -> Claim | None:
    """A claim by a worker of every device, None when no job could run. It must be this job's turn."""
    claim = work.jobs.claim_next(worker, lease_seconds, ("any", "cpu", "gpu"))
    assert claim is None or claim.job.id == id, "another job comes first"
    return claim
