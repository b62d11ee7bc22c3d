"""Looks into an uploaded file, in a child, and says whether jobs may use it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from store.database import UnitOfWork
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.logging import log_context
from store.repositories import UploadRepository
from store.tables import Checkpoint, Dataset, utc_now
from worker import metrics
from worker.child import Order
from worker.failures import Failure, describe, failure
from worker.fetching import Inputs, Interrupted
from worker.inspection_lease import InspectionLease
from worker.outcomes import Failed, Finished, Limit, Outcome, Stop, Stopped
from worker.runner import KILL_GRACE_SECONDS, run_child
from worker.services import Services
from worker.settings import WorkerSettings
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
    """pending -> ready or rejected; then the jobs that waited for it are sent, or fail.

    An attempt counts when it begins, and no more when it ends without a verdict: what stays counted are
    those that nobody saw the end of, and those that got other bytes than were uploaded.
    """
    kind = _KINDS[kind_name]
    with services.database.write() as work:
        mark = kind.rows(work).begin_inspection(id, services.settings.max_attempts)
        if mark is None:
            return
        row = kind.rows(work).get(id)
        assert row is not None, "this transaction has just changed it"
    lease = InspectionLease(services.database, kind.rows, id, mark, every=services.settings.heartbeat_seconds)
    with log_context(**{f"{kind_name}_id": id, "owner": row.owner}):
        _inspect(services, kind_name, row, lease, entry or kind.entry)


def _inspect(
    services: Services, kind_name: KindName, row: Checkpoint | Dataset, lease: InspectionLease, entry: str
) -> None:
    kind, id = _KINDS[kind_name], row.id
    try:
        with lease:
            outcome = _outcome(services, row, entry)
    except BaseException:
        _end_without_verdict(services, kind, id, lease.mark)
        raise
    if isinstance(outcome, Finished):
        with services.database.write() as work:
            decided = kind.rows(work).mark_ready(id, outcome.value)
            waiting = work.jobs.waiting_for(id)
        if decided:
            metrics.inspected(kind_name, "ready")
        log.info("%s: %s; %d jobs wait", id, "ready" if decided else "decided meanwhile", len(waiting))
        for job in waiting:
            services.queue.quantize(job.id, job.device)
    elif isinstance(outcome, Failed) and (why := _verdict(services.settings, row, outcome.failure)):
        decided = _reject(services, kind_name, id, why, lease.mark if _is_of_the_bytes(why) else None)
        verdict = "rejected" if decided else "deleted, decided or sent again meanwhile"
        log.info("%s: %s: %s: %s", id, verdict, why["code"], why["detail"])
    else:
        if not (isinstance(outcome, Failed) and _is_damaged(outcome.failure)):
            _end_without_verdict(services, kind, id, lease.mark)
        metrics.inspected(kind_name, "again")
        if isinstance(outcome, Failed):
            log.warning("%s: still pending: %s", id, outcome.failure["detail"])  # the sweep sends it again
        else:
            kind.send(services, id)


def reject_never_inspected(services: Services) -> None:
    """Rejects the files whose inspections had as many tries as they get, and none came to a verdict."""
    cutoff = utc_now() - timedelta(seconds=_longest(services.settings))
    tries = services.settings.max_attempts
    why = failure(
        "inspection_failed",
        f"Reading the file was begun {tries} times and never ended: the worker was lost, or the bytes came"
        " damaged. Upload the file again, or another one.",
    )
    for name, kind in _KINDS.items():
        with services.database.read() as work:
            found = kind.rows(work).never_inspected(tries, cutoff)
        for id, mark in found:
            if _reject(services, name, id, why, mark):
                log.warning("%s: rejected: %d inspections of this %s had no verdict", id, tries, name)


def _longest(settings: WorkerSettings) -> float:
    """Seconds after which an inspection that has begun runs no more."""
    one = settings.inspection_seconds + settings.cancel_grace_seconds + KILL_GRACE_SECONDS
    return _CRASHES * one + settings.fetch_seconds


def _reject(services: Services, kind_name: KindName, id: str, why: Failure, mark: datetime | None) -> bool:
    with services.database.write() as work:
        decided = _KINDS[kind_name].rows(work).mark_rejected(id, dict(why), mark)
        work.jobs.fail_rejected()
    if decided:
        metrics.inspected(kind_name, "rejected")
    return decided


def _end_without_verdict(services: Services, kind: _Kind, id: str, mark: datetime) -> None:
    with services.database.write() as work:
        kind.rows(work).end_inspection(id, mark)


def _outcome(services: Services, row: Checkpoint | Dataset, entry: str) -> Outcome:
    # A name of its own: another worker, or another thread of this one, may look at the same file.
    name = f"{row.id}-{uuid.uuid4().hex[:8]}"
    try:
        with workspace(services.workspaces, name) as space:
            return _look(services, row, entry, space)
    except StoreError as error:
        return Failed(describe(error))


def _verdict(settings: WorkerSettings, row: Checkpoint | Dataset, found: Failure) -> Failure | None:
    """Why the file is rejected; None where the machine was at fault (a full disk, a broken installation).

    Files that crash their reader are at fault themselves. Bytes that come damaged may be the network's
    fault or a disk's: that is tried as often as an inspection may begin.
    """
    if _is_damaged(found):
        if row.attempts < settings.max_attempts:
            return None
        detail = "The stored bytes are damaged: they are not those that were uploaded. Upload the file again."
        return failure(found["code"], detail)
    crashed = found["code"] in ("worker_crashed", "out_of_memory")
    return found if crashed or not found["retryable"] else None


def _is_damaged(found: Failure) -> bool:
    return found["code"] == BlobCorrupt.default_code


def _is_of_the_bytes(why: Failure) -> bool:
    """Of what has become of them, not of what they say: sending them again may have mended it."""
    return why["code"] in (BlobCorrupt.default_code, BlobMissing.default_code)


def _look(services: Services, row: Checkpoint | Dataset, entry: str, space: Workspace) -> Outcome:
    settings = services.settings

    def watch() -> Stop | None:
        return Stop.HANDED_BACK if services.stopping.is_set() else None

    try:
        path = Inputs(services, space, watch).bring(row.blob_sha256)
    except Interrupted as interrupted:
        return Stopped(interrupted.reason)
    payload: dict[str, Any] = {"path": str(path), "sha256": row.blob_sha256}
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
        file_bytes=int(settings.child_file_gib * _GIB),
    )
    for _ in range(_CRASHES):
        outcome = run_child(
            order,
            limit=Limit(settings.inspection_seconds),
            grace_seconds=settings.cancel_grace_seconds,
            watch=watch,
            on_progress=lambda news: None,
        )
        # A file that crashes its reader twice is to blame itself.
        if not (isinstance(outcome, Failed) and outcome.failure["retryable"]):
            break
    return outcome
