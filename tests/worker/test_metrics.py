from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from http.server import HTTPServer
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from store.job_repository import JobRepository
from store.tables import utc_now
from tests.worker.doubles import PREFIX
from tests.worker.test_jobs import run, running
from tests.worker.world import World
from worker import metrics
from worker.inspections import inspect
from worker.metrics import OTHER, Bounded
from worker.sweep import Reminders, sweep


class Counted:
    """What was added since it was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self._now().get(key, 0.0) - self._before.get(key, 0.0)


def test_a_job_that_succeeds(world: World) -> None:
    world.job()
    with world.services.database.engine.begin() as connection:
        long_ago = utc_now() - timedelta(seconds=100)
        connection.execute(text("UPDATE job SET created_at = :at"), {"at": long_ago})
    counted = Counted()
    run(world, "speak")
    assert counted("zsq_job_attempts_total", method="minmax") == 1
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="succeeded") == 1
    assert 100 <= counted("zsq_job_queue_wait_seconds_sum") < 160
    phases = ("loading", "synthesizing", "exporting", "publishing", "training", "method")
    for phase in phases:
        assert counted("zsq_job_phase_seconds_count", method="minmax", phase=phase) == 1, phase
    # The child's own timings go before what the parent saw.
    assert counted("zsq_job_phase_seconds_sum", method="minmax", phase="training") == 0
    assert counted("zsq_job_phase_seconds_count", method="minmax", phase=OTHER) == 0, "no duration, no phase"


def test_crashes_retries_and_failures_by_code(world: World) -> None:
    job_id, counted = world.job(), Counted()
    for _ in range(3):
        world.alter(job_id, not_before=None)
        run(world, "kill_itself")
    assert counted("zsq_job_attempts_total", method="minmax") == 3
    assert counted("zsq_job_queue_wait_seconds_count") == 1, "of the first attempt alone"
    assert counted("zsq_job_retries_total", code="worker_crashed") == 2
    assert counted("zsq_job_failures_total", code="worker_crashed") == 1
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="retried") == 2
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="failed") == 1


def test_cancel_handback_and_lost_leases(world: World) -> None:
    canceled, counted = world.job(), Counted()
    with running(world, canceled, "run_until_told"):
        world.change(lambda work: work.jobs.request_cancel(canceled))
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="canceled") == 1

    lost = world.job()
    with running(world, lost, "run_until_told"):
        with world.services.database.engine.begin() as connection:
            past = {"at": utc_now() - timedelta(seconds=100), "id": lost}
            connection.execute(
                text("UPDATE job SET fence = fence + 1, lease_expires_at = :at WHERE id = :id"), past
            )
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="lost") == 1
    sweep(world.services, lambda queue: 1, Reminders(60))
    assert counted("zsq_lease_losses_total") == 1
    world.change(lambda work: work.jobs.request_cancel(lost))

    back = world.job()
    with running(world, back, "run_until_told"):
        world.services.stopping.set()
    assert counted("zsq_job_handbacks_total") == 1
    assert counted("zsq_job_attempt_seconds_count", method="minmax", outcome="handed_back") == 1


OUTCOMES = ("succeeded", "failed", "canceled", "retried", "handed_back", "lost")


def outcomes(counted: Counted) -> dict[str, float]:
    found = {
        outcome: counted("zsq_job_attempt_seconds_count", method="minmax", outcome=outcome)
        for outcome in OUTCOMES
    }
    return {outcome: count for outcome, count in found.items() if count}


@pytest.mark.parametrize(
    ("double", "write"),
    [
        ("run_until_told", "cancel_running"),
        ("diverge", "fail"),
        ("kill_itself", "retry"),
        ("run_until_told", "hand_back"),
        ("quantize", "succeed"),
    ],
)
def test_an_attempt_whose_job_was_taken_away_is_lost_whatever_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch, double: str, write: str
) -> None:
    """Another worker claims it between the last heartbeat and the write of the end."""
    job_id, counted = world.job(), Counted()
    original = getattr(JobRepository, write)

    def overtaken(self: JobRepository, id: str, fence: int, *args: Any, **values: Any) -> Any:
        self._session.execute(text("UPDATE job SET fence = fence + 1"))
        return original(self, id, fence, *args, **values)

    monkeypatch.setattr(JobRepository, write, overtaken)
    if write in ("cancel_running", "hand_back"):
        with running(world, job_id, double):
            if write == "hand_back":
                world.services.stopping.set()
            else:
                world.change(lambda work: work.jobs.request_cancel(job_id))
    else:
        run(world, double)
    assert world.look(job_id).status == "running", "the other one's"
    assert outcomes(counted) == {"lost": 1}
    for name, labels in (
        ("zsq_job_handbacks_total", {}),
        ("zsq_job_retries_total", {"code": "worker_crashed"}),
        ("zsq_job_failures_total", {"code": "diverged"}),
    ):
        assert counted(name, **labels) == 0, name
    assert not world.queue.sent


@pytest.mark.parametrize("double", ["run_until_told", "kill_itself"])
def test_a_cancel_that_the_worker_had_not_heard_counts_as_one(
    world: World, monkeypatch: pytest.MonkeyPatch, double: str
) -> None:
    job_id, counted = world.job(), Counted()
    for write in ("hand_back", "retry"):
        original = getattr(JobRepository, write)

        def asked(self: JobRepository, *args: Any, original: Any = original, **values: Any) -> Any:
            self.request_cancel(job_id)
            return original(self, *args, **values)

        monkeypatch.setattr(JobRepository, write, asked)
    if double == "kill_itself":
        run(world, double)
    else:
        with running(world, job_id, double):
            world.services.stopping.set()
    assert world.look(job_id).status == "canceled" and outcomes(counted) == {"canceled": 1}
    assert counted("zsq_job_handbacks_total") == counted("zsq_job_retries_total", code="worker_crashed") == 0


def test_inspections_by_verdict(world: World) -> None:
    counted = Counted()
    inspect(world.services, "checkpoint", world.checkpoint(state="pending"), entry=PREFIX + "inspect")
    inspect(world.services, "dataset", world.dataset(state="pending"), entry=PREFIX + "refuse")
    inspect(world.services, "dataset", world.dataset(state="pending"), entry=PREFIX + "fill_the_disk")
    assert counted("zsq_inspections_total", kind="checkpoint", outcome="ready") == 1
    assert counted("zsq_inspections_total", kind="dataset", outcome="rejected") == 1
    assert counted("zsq_inspections_total", kind="dataset", outcome="again") == 1


def test_what_a_child_says_cannot_grow_the_labels_without_bound() -> None:
    bounded = Bounded(3)
    words = ["diverged", "out_of_memory", "/etc/passwd", "", "a" * 100, "third", "fourth", "Upper"]
    assert [bounded(word) for word in words] == [
        "diverged",
        "out_of_memory",
        OTHER,
        OTHER,
        OTHER,
        "third",
        OTHER,
        OTHER,
    ]
    assert bounded("diverged") == "diverged"


@pytest.fixture
def served() -> Iterator[list[HTTPServer]]:
    servers: list[HTTPServer] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def scrape(server: HTTPServer) -> str:
    address: Any = server.server_address
    with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_several_workers_on_one_host_take_ports_in_a_row(served: list[HTTPServer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for _ in range(2):
            server = metrics.serve("127.0.0.1", port)
            assert server is not None
            served.append(server)
    ports = [server.server_port for server in served]
    assert port < ports[0] < ports[1] < port + metrics.PORTS_TRIED
    assert "zsq_job_attempts_total" in scrape(served[1])


def test_any_port_and_no_port(served: list[HTTPServer], monkeypatch: pytest.MonkeyPatch) -> None:
    server = metrics.serve("127.0.0.1", 0)
    assert server is not None
    served.append(server)
    assert "zsq_lease_losses_total" in scrape(server)
    monkeypatch.setattr(metrics, "PORTS_TRIED", 1)
    assert metrics.serve("127.0.0.1", server.server_port) is None, "and the worker goes on"
