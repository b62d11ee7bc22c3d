"""One attempt at one job: claim, fetch, run, publish, write the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.spec import QuantizationSpec
from store import tracing
from store.database import UnitOfWork
from store.errors import BlobMissing
from store.job_repository import Claim
from store.tables import Artifact
from worker import metrics, observe
from worker.child import Order
from worker.failures import describe, from_around
from worker.lease import Lease
from worker.runner import Failed, Finished, Limit, Outcome, Stop, Stopped, run_child
from worker.services import Services
from worker.workspace import Workspace, hold, remove_abandoned, workspace

ENTRY = "worker.entries:quantize"
_GIB = 2**30
_WRITE_TRIES = 5

log = logging.getLogger(__name__)


def run_job(services: Services, job_id: str, *, entry: str = ENTRY) -> None:
    """Does nothing when the job cannot be claimed: it has ended, runs elsewhere, or still waits."""
    with services.database.write() as work:
        claim = work.jobs.claim(job_id, services.name, services.store.lease_seconds)
    if claim is None:
        log.info("%s: nothing to do", job_id)
        return
    _Attempt(services, claim, entry).run()


def clean_up(services: Services) -> None:
    """Removes the workspaces of attempts and inspections that no longer run."""

    def in_use(name: str) -> bool:
        job_id, _, attempt = name.rpartition("-")
        if not job_id.startswith("job_"):
            return Path(f"/proc/{attempt}").exists()
        with services.database.read() as work:
            job = work.jobs.get(job_id)
        return job is not None and job.status == "running" and str(job.attempt) == attempt

    with tracing.untraced():
        remove_abandoned(services.workspaces, in_use)


class _Attempt:
    def __init__(self, services: Services, claim: Claim, entry: str) -> None:
        self._services = services
        self._job = claim.job
        self._fence = claim.fence
        self._entry = entry
        self._seen: observe.Attempt
        self._lease = Lease(
            services.database,
            claim,
            lease_seconds=services.store.lease_seconds,
            every=services.settings.heartbeat_seconds,
        )

    def run(self) -> None:
        name = f"{self._job.id}-{self._job.attempt}"
        with observe.attempt(self._job) as self._seen, self._lease as lease:
            log.info("%s: attempt %d begins", self._job.id, self._job.attempt)
            self._report = self._seen.reporting(lease.report)
            self._report({"phase": "loading"})
            try:
                with workspace(self._services.workspaces, name) as space:
                    outcome, artifacts = self._work(space)
                    if isinstance(outcome, Finished):
                        # Inside: until rows name the blobs, their files may be needed once more.
                        self._succeed(outcome.value["report"], artifacts, space)
                        return
            except BlobMissing as error:
                outcome = Failed(describe(error))
            except Exception as error:
                log.exception("%s: attempt %d broke", self._job.id, self._job.attempt)
                outcome = Failed(from_around(error))
            self._conclude(outcome)

    def _work(self, space: Workspace) -> tuple[Outcome, list[Artifact]]:
        order, limit = self._prepare(space)
        if (reason := self._watch()) is not None:
            return Stopped(reason), []
        outcome = run_child(
            order,
            limit=limit,
            grace_seconds=self._services.settings.cancel_grace_seconds,
            watch=self._watch,
            on_progress=self._report,
        )
        if not isinstance(outcome, Finished):
            return outcome, []
        self._report({"phase": "publishing"})
        files = outcome.value["artifacts"]
        artifacts = space.publish(self._services.blobs, files, lambda: self._watch() is None)
        self._lease.beat()  # the last chance to hear of a cancel
        if (reason := self._watch()) is not None:
            return Stopped(reason), []
        return outcome, artifacts or []

    def _prepare(self, space: Workspace) -> tuple[Order, Limit]:
        services, settings, job = self._services, self._services.settings, self._job
        spec = QuantizationSpec.from_json(job.spec)
        payload: dict[str, Any] = {"spec": job.spec, "output": str(space.output), "dataset": None}
        with services.database.read() as work:
            checkpoint = work.checkpoints.get(job.checkpoint_id) if job.checkpoint_id else None
            dataset = work.datasets.get(job.dataset_id) if job.dataset_id else None
        assert checkpoint is not None, "a checkpoint cannot be deleted while an unfinished job uses it"
        payload["checkpoint"] = {
            "path": str(space.bring(services.blobs, checkpoint.blob_sha256)),
            "sha256": checkpoint.blob_sha256,
            "network": checkpoint.network,
        }
        if dataset is not None:
            payload["dataset"] = {
                "path": str(space.bring(services.blobs, dataset.blob_sha256)),
                "sha256": dataset.blob_sha256,
                "classes": dataset.classes,
            }
        order = Order(
            entry=self._entry,
            payload=payload,
            scratch=space.scratch,
            seed=spec.seed,
            device=settings.device,
            threads=settings.torch_threads,
            memory_bytes=int(settings.child_memory_gib * _GIB),
        )
        own = spec.limits.seconds
        if own is not None and own <= settings.job_seconds:
            return order, Limit(own, field="limits.seconds")
        return order, Limit(settings.job_seconds)

    def _watch(self) -> Stop | None:
        if self._lease.lost:
            return Stop.LOST
        if self._lease.cancel_requested:
            return Stop.CANCELED
        if self._services.stopping.is_set():
            return Stop.HANDED_BACK
        return None

    def _succeed(self, report: dict[str, Any], artifacts: list[Artifact], space: Workspace) -> None:
        def publish(work: UnitOfWork) -> bool:
            hold(work, self._services.blobs, space.published)
            return work.jobs.succeed(self._job.id, self._fence, report, artifacts)

        ended = self._write(publish)
        self._seen.ended("succeeded" if ended else "lost", report)
        log.info("%s: %s", self._job.id, "succeeded" if ended else "was taken away; nothing written")

    def _conclude(self, outcome: Outcome) -> None:
        match outcome:
            case Stopped(Stop.CANCELED):
                self._write(lambda work: work.jobs.cancel_running(self._job.id, self._fence))
                self._seen.ended("canceled")
                log.info("%s: canceled", self._job.id)
            case Stopped(Stop.HANDED_BACK):
                self._run_again("this worker is shutting down")
                self._seen.ended("handed_back")
                metrics.handed_back()
            case Stopped(Stop.LOST):
                self._seen.ended("lost")
                log.warning("%s: lease lost, nothing written", self._job.id)
            case Failed(failure):
                if failure["retryable"] and self._job.attempt < self._services.settings.max_attempts:
                    self._run_again(failure["detail"])
                    self._seen.ended("retried")
                    metrics.retried(failure["code"])
                else:
                    self._write(lambda work: work.jobs.fail(self._job.id, self._fence, dict(failure)))
                    self._seen.ended("failed")
                    metrics.failed(failure["code"])
                    log.info("%s: failed: %s: %s", self._job.id, failure["code"], failure["detail"])

    def _run_again(self, why: str) -> None:
        if not self._write(lambda work: work.jobs.requeue(self._job.id, self._fence)):
            return
        log.warning("%s: queued again after attempt %d: %s", self._job.id, self._job.attempt, why)
        try:
            self._services.queue.quantize(self._job.id)
        except Exception:
            log.warning("%s: broker away; the sweep will send it", self._job.id, exc_info=True)

    def _write(self, change: Callable[[UnitOfWork], bool]) -> bool:
        """Writes the end, patiently: hours of work must not be lost to a short database outage."""
        for attempt in range(_WRITE_TRIES):
            try:
                with self._services.database.write() as work:
                    return change(work)
            except Exception:
                if attempt == _WRITE_TRIES - 1:
                    raise
                log.warning("%s: could not write its end; trying again", self._job.id, exc_info=True)
                time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")
