"""A lease runs out by the clock, whatever the database does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from store.job_claims import Claim
from store.job_repository import JobRepository
from tests.store.rows import claim_job
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker.lease import PROMPT_PHASES, Lease


def test_a_beat_that_never_returns_loses_the_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = world.job()
    claim = world.change(lambda work: claim_job(work, job_id, "w", 30))
    assert isinstance(claim, Claim)
    hangs, answers = threading.Event(), threading.Event()
    original = type(world.services.database).write

    def write(self: Any) -> Any:
        hangs.set()
        assert answers.wait(60)
        return original(self)

    monkeypatch.setattr(type(world.services.database), "write", write)
    with Lease(world.services.database, claim, lease_seconds=0.2, every=0.05) as lease:
        try:
            assert hangs.wait(60)
            assert wait_for(lambda: lease.lost, 30)
        finally:
            answers.set()
    assert lease.lost, "it stays so, though the answer came after all"


def test_only_what_the_jobs_process_runs_is_charged(world: World) -> None:
    job_id = world.job()
    world.alter(job_id, ran_seconds=5.0)
    claim = world.change(lambda work: claim_job(work, job_id, "w", 30))
    # Not entered: beats of its own thread would come between these.
    lease = Lease(world.services.database, claim, lease_seconds=30, every=1000)
    lease.beat()
    assert world.look(job_id).ran_seconds == lease.ran_seconds == 5.0, "while inputs are fetched"
    with lease.running():
        assert wait_for(lambda: lease.ran_seconds > 5.0)
        lease.beat()
        assert world.look(job_id).ran_seconds > 5.0
    ran = lease.ran_seconds
    lease.beat()
    assert world.look(job_id).ran_seconds == lease.ran_seconds == ran > 5.0, "while results are published"


def test_phases_are_written_at_once_and_without_end_only_with_the_beats(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = world.job()
    claim = world.change(lambda work: claim_job(work, job_id, "w", 30))
    beat, beats = JobRepository.heartbeat, list[str | None]()

    def beating(self: JobRepository, *args: Any, **values: Any) -> Any:
        found = beat(self, *args, **values)
        beats.append(values.get("phase"))
        return found

    monkeypatch.setattr(JobRepository, "heartbeat", beating)
    with Lease(world.services.database, claim, lease_seconds=3000, every=1000) as lease:
        assert wait_for(lambda: beats == [None])
        told = [f"phase {number}" for number in range(PROMPT_PHASES)]
        for phase in told:
            lease.report({"phase": phase})
            assert wait_for(lambda said=phase: beats[-1] == said), "long before the next beat"
        for number in range(100):
            lease.report({"phase": f"more {number}"})
        assert not wait_for(lambda: len(beats) > 1 + PROMPT_PHASES, 0.5)
        lease.beat()
    assert beats == [None, *told, "more 99"]
    assert world.look(job_id).phase == "more 99"
