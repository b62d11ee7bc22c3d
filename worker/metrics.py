"""What a worker counts for Prometheus, and the port that it is read from.

Calls of other modules are single lines. No label comes from what a user sent: methods are the
registry's, and what a child says of itself (phases, error codes) is let in up to a bound.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from http.server import HTTPServer

from prometheus_client import Counter, Histogram, start_http_server

log = logging.getLogger(__name__)

OTHER = "other"
# Several workers on one host are given the same port: each takes the first one that is free.
PORTS_TRIED = 16

_LONG = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)

_WAITED = Histogram(
    "zsq_job_queue_wait_seconds",
    "From a job's submission to its first attempt's begin.",
    buckets=_LONG,
)
_ATTEMPTS = Counter("zsq_job_attempts", "Attempts begun.", ("method",))
_ENDED = Histogram("zsq_job_attempt_seconds", "Attempts by their end.", ("method", "outcome"), buckets=_LONG)
_PHASES = Histogram("zsq_job_phase_seconds", "Phases of attempts.", ("method", "phase"), buckets=_LONG)
_RETRIES = Counter("zsq_job_retries", "Attempts that failed and are followed by another.", ("code",))
_FAILURES = Counter("zsq_job_failures", "Jobs that failed for good.", ("code",))
_HANDED_BACK = Counter("zsq_job_handbacks", "Jobs handed back by a worker that was told to stop.")
_LEASES_LOST = Counter("zsq_lease_losses", "Leases that ran out, as the sweep found them.")
_INSPECTIONS = Counter("zsq_inspections", "Uploads looked into, by verdict.", ("kind", "outcome"))


class Bounded:
    """The first `limit` words that look like names; `other` for all else."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, word: str) -> str:
        with self._lock:
            if len(self._known) < self._limit and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", word):
                self._known.add(word)
            return word if word in self._known else OTHER


_code, _phase = Bounded(64), Bounded(32)


def waited(seconds: float) -> None:
    _WAITED.observe(max(0.0, seconds))


def attempt_began(method: str) -> None:
    _ATTEMPTS.labels(method).inc()


def attempt_ended(method: str, outcome: str, seconds: float, phases: Mapping[str, float]) -> None:
    """`outcome`: succeeded, failed, canceled, retried, handed_back or lost."""
    _ENDED.labels(method, outcome).observe(seconds)
    for name, duration in phases.items():
        _PHASES.labels(method, _phase(name)).observe(duration)


def retried(code: str) -> None:
    _RETRIES.labels(_code(code)).inc()


def failed(code: str) -> None:
    _FAILURES.labels(_code(code)).inc()


def handed_back() -> None:
    _HANDED_BACK.inc()


def leases_lost(count: int) -> None:
    _LEASES_LOST.inc(count)


def inspected(kind: str, outcome: str) -> None:
    """`outcome`: ready, rejected or again."""
    _INSPECTIONS.labels(kind, outcome).inc()


def serve(host: str, port: int) -> HTTPServer | None:
    """Answers scrapes from a thread, on `port` or the next free one; 0 takes any. None when none is free.

    Jobs go on without it: a worker must not end for want of a port.
    """
    last: OSError | None = None
    for candidate in [0] if port == 0 else range(port, min(port + PORTS_TRIED, 65536)):
        try:
            server, _ = start_http_server(candidate, host)
        except OSError as error:
            last = error
            continue
        log.info("metrics on http://%s:%d/metrics", host, server.server_port)
        return server
    log.error("no metrics: none of %d ports from %s:%d on is free (%s)", PORTS_TRIED, host, port, last)
    return None
