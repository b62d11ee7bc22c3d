"""An attempt as it is seen from outside: its log lines' fields, its span, its measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from store import tracing
from store.logging import log_context
from store.tables import Job
from worker import metrics
from worker.messages import PHASES, is_real

# Of a report, beside the phases: the method's own time, and all of it.
_TIMINGS = PHASES | {"method", "total"}


class Phases:
    """How long each phase took, by the changes that the child tells of."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._name: str | None = None
        self._began = self._since = time.monotonic()

    def change(self, name: str | None) -> None:
        """The same name again changes nothing."""
        if name == self._name:
            return
        now = time.monotonic()
        if self._name is not None:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now

    def seconds(self, timings: Mapping[str, Any] | None = None) -> dict[str, float]:
        """By phase; `timings` of a report are the child's own, and more exact; none is longer than all."""
        whole = time.monotonic() - self._began
        own = {
            name: float(value)
            for name, value in (timings or {}).items()
            if name in _TIMINGS and is_real(value) and 0 <= value <= whole
        }
        return {**self._seconds, **own}


class Attempt:
    """What `attempt` yields: `report` passes news on, `ended` says how it went."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._began = time.monotonic()
        self._phases = Phases()
        self.outcome: str | None = None

    def reporting(self, report: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """`report`, with an eye on the phase."""

        def observed(news: dict[str, Any]) -> None:
            if isinstance(phase := news.get("phase"), str):
                self._phases.change(phase)
            report(news)

        return observed

    def ended(self, outcome: str, report: Mapping[str, Any] | None = None) -> None:
        """`outcome`: succeeded, failed, canceled, retried, handed_back or lost."""
        self.outcome = outcome
        self._phases.change(None)
        timings = (report or {}).get("timings")
        seconds = self._phases.seconds(timings if isinstance(timings, Mapping) else None)
        metrics.attempt_ended(self._method, outcome, time.monotonic() - self._began, seconds)


@contextmanager
def attempt(job: Job) -> Iterator[Attempt]:
    """Around one attempt at a claimed job."""
    metrics.attempt_began(job.method)
    if job.attempt == 1 and job.started_at is not None:
        metrics.waited((job.started_at - job.created_at).total_seconds())
    seen = Attempt(job.method)
    about: dict[str, str | int] = {"job_id": job.id, "attempt": job.attempt, "owner": job.owner}
    if job.request_id is not None:
        about["request_id"] = job.request_id
    with (
        log_context(**about),
        tracing.span("zsq.attempt", job.traceparent, method=job.method, **about) as span,
    ):
        try:
            yield seen
        finally:
            if seen.outcome is None:  # its end could not be written: the lease will run out
                seen.ended("lost")
            if span is not None:
                span.set_attribute("zsq.outcome", str(seen.outcome))
