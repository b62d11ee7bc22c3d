"""What Prometheus is told of the jobs and the queue: asked for when it is scraped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.deps import Resources
from api.services.probe import Probe
from store.tables import utc_now

log = logging.getLogger(__name__)

# Several scrapers, and impatient ones, cost the database no more than one.
FRESH_SECONDS = 5.0
LIMIT_SECONDS = 2.0


class StateGauges(Collector):
    """Absent as long as database or broker do not answer: a scrape never fails or hangs for them."""

    def __init__(self, resources: Resources) -> None:
        self._sources = [
            _Cached("jobs", lambda: _jobs(resources)),
            _Cached("queues", lambda: _queues(resources)),
        ]

    def collect(self) -> Iterable[Metric]:
        answers = [source.answer() for source in self._sources]
        wait(answers, timeout=LIMIT_SECONDS)
        for answer in answers:
            if not answer.done():
                log.warning("no gauges: no answer within %g s", LIMIT_SECONDS)
            elif error := answer.exception():
                log.warning("no gauges: %s", error)
            else:
                yield from answer.result()


class _Cached:
    def __init__(self, name: str, ask: Callable[[], list[Metric]]) -> None:
        self._probe = Probe(f"gauges of {name}", ask)
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._answer: Future[list[Metric]]

    def answer(self) -> Future[list[Metric]]:
        """Of the last question, for `FRESH_SECONDS`, be it an answer or an error."""
        with self._lock:
            now = time.monotonic()
            if now - self._asked_at > FRESH_SECONDS:
                self._answer, self._asked_at = self._probe.answer(), now
            return self._answer


def _jobs(resources: Resources) -> list[Metric]:
    with resources.database.read() as work:
        counts, oldest = work.jobs.census()
    jobs = GaugeMetricFamily("zsq_jobs", "Jobs by status.", labels=["status"])
    for status, count in counts.items():
        jobs.add_metric([status], count)
    age = 0.0 if oldest is None else max(0.0, (utc_now() - oldest).total_seconds())
    return [
        jobs,
        GaugeMetricFamily("zsq_oldest_queued_job_seconds", "How long a queued job waits by now.", value=age),
    ]


def _queues(resources: Resources) -> list[Metric]:
    depth = GaugeMetricFamily(
        "zsq_queue_messages", "Messages that no worker has taken yet.", labels=["queue"]
    )
    for name, count in resources.queue.depths().items():
        depth.add_metric([name], count)
    return [depth]
