"""Looks into an uploaded file, in a child, and says whether jobs may use it."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from store.database import UnitOfWork
from store.errors import StoreError
from store.logging import log_context
from store.repositories import UploadRepository
from store.tables import Checkpoint, Dataset
from worker import metrics
from worker.child import Order
from worker.failures import describe
from worker.runner import Failed, Finished, Limit, Outcome, Stop, run_child
from worker.services import Services
from worker.workspace import Workspace, workspace

_GIB = 2**30
_CRASHES = 2

log = logging.getLogger(__name__)

KindName = Literal["checkpoint", "dataset"]


@dataclass(frozen=True, slots=True)
class _Kind:
    entry: str
    rows: Callable[[UnitOfWork], UploadRepository[Any]]
    send: Callable[[Services, str], None]


_KINDS: dict[KindName, _Kind] = {
    "checkpoint": _Kind(
        "worker.entries:inspect_checkpoint",
        lambda work: work.checkpoints,
        lambda services, id: services.queue.inspect_checkpoint(id),
    ),
    "dataset": _Kind(
        "worker.entries:inspect_dataset",
        lambda work: work.datasets,
        lambda services, id: services.queue.inspect_dataset(id),
    ),
}


def inspect(services: Services, kind_name: KindName, id: str, *, entry: str | None = None) -> None:
    """pending -> ready or rejected; then the jobs that waited for it are sent, or fail."""
    kind = _KINDS[kind_name]
    with services.database.read() as work:
        row = kind.rows(work).get(id)
    if row is None or row.state != "pending":
        return
    with log_context(**{f"{kind_name}_id": id, "owner": row.owner}):
        _inspect(services, kind_name, row, entry or kind.entry)


def _inspect(services: Services, kind_name: KindName, row: Checkpoint | Dataset, entry: str) -> None:
    kind, id = _KINDS[kind_name], row.id
    try:
        # A name of its own: another worker, or another thread of this one, may look at the same file.
        # The process's id comes last, for `clean_up`.
        with workspace(services.workspaces, f"{id}-{uuid.uuid4().hex[:8]}-{os.getpid()}") as space:
            outcome = _look(services, row, entry, space)
    except StoreError as error:
        outcome = Failed(describe(error))
    if isinstance(outcome, Finished):
        with services.database.write() as work:
            decided = kind.rows(work).mark_ready(id, outcome.value)
            waiting = work.jobs.waiting_for(id)
        if decided:
            metrics.inspected(kind_name, "ready")
        log.info("%s: %s; %d jobs wait", id, "ready" if decided else "decided meanwhile", len(waiting))
        for job_id in waiting:
            services.queue.quantize(job_id)
    elif isinstance(outcome, Failed) and _will_pass(outcome):
        metrics.inspected(kind_name, "again")
        log.warning("%s: still pending: %s", id, outcome.failure["detail"])  # the sweep sends it again
    elif isinstance(outcome, Failed):
        with services.database.write() as work:
            decided = kind.rows(work).mark_rejected(id, dict(outcome.failure))
            work.jobs.fail_rejected()
        if decided:
            metrics.inspected(kind_name, "rejected")
        verdict = "rejected" if decided else "deleted or decided meanwhile"
        log.info("%s: %s: %s: %s", id, verdict, outcome.failure["code"], outcome.failure["detail"])
    else:
        metrics.inspected(kind_name, "again")
        kind.send(services, id)


def _will_pass(outcome: Failed) -> bool:
    """Whether the machine was at fault (a full disk), not the file. Files that crash their reader are."""
    return outcome.failure["retryable"] and outcome.failure["code"] not in ("worker_crashed", "out_of_memory")


def _look(services: Services, row: Checkpoint | Dataset, entry: str, space: Workspace) -> Outcome:
    settings = services.settings
    payload: dict[str, Any] = {
        "path": str(space.bring(services.blobs, row.blob_sha256)),
        "sha256": row.blob_sha256,
    }
    if isinstance(row, Checkpoint):
        payload["network"] = row.network
    else:
        payload["classes"] = row.classes
    order = Order(
        entry=entry,
        payload=payload,
        scratch=space.scratch,
        threads=1,
        memory_bytes=int(settings.child_memory_gib * _GIB),
    )
    for _ in range(_CRASHES):
        outcome = run_child(
            order,
            limit=Limit(settings.inspection_seconds),
            grace_seconds=settings.cancel_grace_seconds,
            watch=lambda: Stop.HANDED_BACK if services.stopping.is_set() else None,
            on_progress=lambda news: None,
        )
        # A file that crashes its reader twice is to blame itself.
        if not (isinstance(outcome, Failed) and outcome.failure["retryable"]):
            break
    return outcome
