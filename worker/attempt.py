"""One attempt at one job: fetch, run, publish, write the end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, TypeVar

from store.database import UnitOfWork
from store.errors import StoreError
from store.job_claims import Claim
from store.naming import hold_blobs
from store.tables import Artifact
from worker import messages, metrics, observe
from worker.child import Order
from worker.failures import Failure, describe, from_around, from_child, machine_at_fault
from worker.fetching import Interrupted
from worker.lease import Lease
from worker.outcomes import Failed, Finished, Limit, Outcome, Stop, Stopped
from worker.patience import patiently
from worker.preparation import prepare
from worker.resume import Keeper, release_ended
from worker.runner import run_child
from worker.services import Services
from worker.settings import WorkerSettings
from worker.workspace import Workspace, workspace

ENTRY = "worker.entries:quantize"
# So often may a job be handed back and the machine's failures not count against it; without a bound, what
# fails on every machine would run for ever.
_MOST_HANDBACKS = 20

log = logging.getLogger(__name__)

T = TypeVar("T")


def retry_delay(settings: WorkerSettings, failures: int) -> float:
    """Seconds until the next try: doubled with each failure, up to a quarter more or less, bounded."""
    # Bounded before it is doubled: two to the power of many attempts is no float.
    doubled = settings.retry_seconds * 2.0 ** min(failures - 1, 60)
    return min(doubled * random.uniform(0.75, 1.25), settings.retry_max_seconds)


class Attempt:
    def __init__(self, services: Services, claim: Claim, entry: str) -> None:
        self._services = services
        self._claim = claim
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

    def run(self) -> bool:
        """False when the machine failed, not the job: then the next job most likely would, too."""
        name = f"{self._job.id}-{self._job.attempt}"
        with observe.attempt(self._job) as self._seen:
            log.info("%s: attempt %d begins", self._job.id, self._job.attempt)
            with self._lease as lease:
                self._report = self._seen.reporting(lease.report)
                self._report({"phase": "loading"})
                try:
                    with workspace(self._services.workspaces, name) as space:
                        outcome, artifacts = self._work(space)
                        if isinstance(outcome, Finished):
                            # Inside: until rows name the blobs, their files may be needed once more.
                            self._succeed(outcome.value["report"], artifacts, space)
                except StoreError as error:
                    outcome = Failed(describe(error))
                except Exception as error:
                    log.exception("%s: attempt %d broke", self._job.id, self._job.attempt)
                    outcome = Failed(from_around(error))
                self._conclude(outcome)
            self._tidy()
        return not (isinstance(outcome, Failed) and machine_at_fault(outcome.failure))

    def _work(self, space: Workspace) -> tuple[Outcome, list[Artifact]]:
        try:
            order, limit = prepare(self._services, self._job, space, self._entry, self._watch)
        except Interrupted as interrupted:
            return Stopped(interrupted.reason), []
        if (reason := self._watch()) is not None:
            return Stopped(reason), []
        outcome = self._run_child(order, limit)
        if not isinstance(outcome, Finished):
            return outcome, []
        # Told to stop now, the worker still publishes: the work is done.
        self._report({"phase": "publishing"})
        files = outcome.value["artifacts"]
        artifacts = space.publish(self._services.blobs, files, self._is_ours)
        self._lease.beat()  # the last chance to hear of a cancel
        if (reason := self._taken_away()) is not None:
            return Stopped(reason), []
        return outcome, artifacts or []

    def _run_child(self, order: Order, limit: Limit) -> Outcome:
        settings = self._services.settings
        with Keeper(self._services, self._claim, order.scratch, self._is_ours) as keeper:
            with self._lease.running():
                outcome = run_child(
                    order,
                    limit=limit,
                    grace_seconds=settings.cancel_grace_seconds,
                    hand_back_seconds=settings.shutdown_grace_seconds,
                    watch=self._watch,
                    on_progress=self._report,
                    on_saved=keeper.offer,
                )
            if isinstance(outcome, Finished) and not messages.is_quantized(outcome.value):
                outcome = Failed(from_child({"detail": "The run ended with a result that is none."}))
            if not self._runs_again(outcome):
                keeper.discard()
        return outcome

    def _watch(self) -> Stop | None:
        if (reason := self._taken_away()) is not None:
            return reason
        return Stop.HANDED_BACK if self._services.stopping.is_set() else None

    def _taken_away(self) -> Stop | None:
        if self._lease.lost:
            return Stop.LOST
        return Stop.CANCELED if self._lease.cancel_requested else None

    def _is_ours(self) -> bool:
        return self._taken_away() is None

    def _runs_again(self, outcome: Outcome) -> bool:
        if isinstance(outcome, Failed):
            if self._is_forgiven(outcome.failure):
                return True
            # Attempts that a worker handed back do not count.
            started = self._job.attempt - self._job.handbacks
            return outcome.failure["retryable"] and started < self._services.settings.max_attempts
        return outcome == Stopped(Stop.HANDED_BACK)

    def _is_forgiven(self, failure: Failure) -> bool:
        """The attempt is not to count."""
        return machine_at_fault(failure) and self._job.handbacks < _MOST_HANDBACKS

    def _succeed(self, report: dict[str, Any], artifacts: list[Artifact], space: Workspace) -> None:
        def publish(work: UnitOfWork) -> bool:
            hold_blobs(work, self._services.blobs, space.published)
            return work.jobs.succeed(self._job.id, self._fence, report, artifacts)

        if self._ended("succeeded", self._write(publish), report):
            log.info("%s: succeeded", self._job.id)

    def _conclude(self, outcome: Outcome) -> None:
        """Writes the end of an attempt that has not `_succeed`ed."""
        id, fence = self._job.id, self._fence
        match outcome:
            case Stopped(Stop.CANCELED):
                self._canceled(self._write(lambda work: work.jobs.cancel_running(id, fence)))
            case Stopped(Stop.HANDED_BACK):
                self._hand_back()
            case Stopped(Stop.LOST):
                self._ended("lost", False)
            case Failed(failure) if self._runs_again(outcome):
                self._retry(failure)
            case Failed(failure):
                if self._ended("failed", self._write(lambda work: work.jobs.fail(id, fence, dict(failure)))):
                    metrics.failed(failure["code"])
                    log.info("%s: failed: %s: %s", id, failure["code"], failure["detail"])

    def _ended(self, outcome: str, written: bool, report: dict[str, Any] | None = None) -> bool:
        """Counts the attempt: as lost, whatever was to be its end, when that could not be `written`."""
        self._seen.ended(outcome if written else "lost", report)
        if not written:
            log.warning("%s: was taken away; nothing written", self._job.id)
        return written

    def _canceled(self, written: bool) -> None:
        if self._ended("canceled", written):
            log.info("%s: canceled", self._job.id)

    def _hand_back(self) -> None:
        id, ran_seconds = self._job.id, self._lease.ran_seconds
        became = self._write(lambda work: work.jobs.hand_back(id, self._fence, ran_seconds))
        if became == "canceled":
            self._canceled(True)
        elif self._ended("handed_back", became is not None):
            metrics.handed_back()
            log.warning("%s: handed back in attempt %d", id, self._job.attempt)
            self._send_again()

    def _send_again(self) -> None:
        try:
            self._services.queue.quantize(self._job.id, self._job.device)
        except Exception:
            log.warning("%s: broker away; the sweep will send it", self._job.id, exc_info=True)

    def _retry(self, failure: Failure) -> None:
        id, ran_seconds = self._job.id, self._lease.ran_seconds
        forgiven = self._is_forgiven(failure)
        failures = self._job.handbacks + 1 if forgiven else self._job.attempt - self._job.handbacks
        delay = retry_delay(self._services.settings, failures)

        def retry(work: UnitOfWork) -> str | None:
            return work.jobs.retry(id, self._fence, dict(failure), delay, ran_seconds, counts=not forgiven)

        became = self._write(retry)
        if became == "canceled":
            self._canceled(True)
        elif self._ended("retried", became is not None):
            metrics.retried(failure["code"])
            log.warning(
                "%s: again in %.1f s, after attempt %d: %s", id, delay, self._job.attempt, failure["detail"]
            )

    def _tidy(self) -> None:
        try:
            release_ended(self._services)
        except Exception:
            log.warning("%s: the sweep will tidy up", self._job.id, exc_info=True)

    def _write(self, change: Callable[[UnitOfWork], T]) -> T:
        """Writes the end, patiently: hours of work must not be lost to a short database outage."""

        def write() -> T:
            with self._services.database.write() as work:
                return change(work)

        return patiently(write, Exception, f"{self._job.id}: could not write its end")
