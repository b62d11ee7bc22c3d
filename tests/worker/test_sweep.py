from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text, update

from store import job_claims
from store.job_claims import JobClaims
from store.queue import ANY_QUEUE, CONTROL_QUEUE, GPU_QUEUE
from store.tables import Checkpoint, Dataset, utc_now
from tests.store.rows import claim_job
from tests.worker.doubles import PREFIX
from tests.worker.world import World
from worker.inspections import inspect
from worker.sweep import Reminders, sweep

TABLES = {"checkpoint": Checkpoint, "dataset": Dataset}


def age(world: World) -> None:
    """Makes everything look an hour old."""
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(text("UPDATE job SET enqueued_at = '2020-01-01 00:00:00.000000'"))
        for table in ("checkpoint", "dataset"):
            connection.execute(text(f"UPDATE {table} SET created_at = '2020-01-01 00:00:00.000000'"))


def test_a_lost_message_is_sent_again(world: World) -> None:
    job_id = world.job()
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert not world.queue.sent, "too young to be lost"
    age(world)
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("quantize", job_id)]


def test_no_more_is_sent_than_jobs_lack_messages(world: World) -> None:
    ids = [world.job() for _ in range(3)]
    on_gpu = world.job(device="gpu")
    age(world)
    sweep(world.services, lambda queue: 3, Reminders(60))
    assert not world.queue.sent, "each has its message"
    sweep(world.services, {ANY_QUEUE: 2, GPU_QUEUE: 0}.__getitem__, Reminders(60))
    assert world.queue.sent == [("quantize", ids[0]), ("quantize on gpu", on_gpu)]
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent[2:] == [("quantize", id) for id in ids[1:]], "those that were not sent just now"


def test_many_jobs_of_one_device_do_not_hide_those_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_claims, "_WAKE_UPS_AT_ONCE", 2)
    for _ in range(3):
        world.job()
    on_gpu = world.job(device="gpu")
    age(world)
    sweep(world.services, {ANY_QUEUE: 3, GPU_QUEUE: 0}.__getitem__, Reminders(60))
    assert world.queue.sent == [("quantize on gpu", on_gpu)]


def test_a_job_whose_time_comes_during_the_sweep_does_not_stop_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.job()
    on_gpu = world.job(device="gpu")
    age(world)
    # As if the first one had not been due yet when they were counted.
    monkeypatch.setattr(JobClaims, "eligible_by_device", lambda jobs, limit: {"gpu": 1})
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("quantize on gpu", on_gpu)]


def test_a_job_is_sent_when_its_time_has_come(world: World) -> None:
    job_id = world.job()
    world.alter(job_id, enqueued_at=None, not_before=utc_now() + timedelta(seconds=100))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert not world.queue.sent
    world.alter(job_id, not_before=utc_now())
    for _ in range(2):
        sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("quantize", job_id)]


def test_a_job_that_its_owners_limit_holds_back_is_not_sent(world: World) -> None:
    world.configure(owner_running_jobs=1)
    world.job()
    world.job()
    world.change(lambda work: work.jobs.claim_next("w", 30, ("any",)))
    age(world)
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert not world.queue.sent


def test_a_step_that_fails_does_not_stop_the_others(world: World) -> None:
    job_id = world.job()
    world.change(lambda work: claim_job(work, job_id, "w", -1))
    checkpoint_id = world.checkpoint(state="pending")
    age(world)

    def waiting(queue: str) -> int:
        if queue == CONTROL_QUEUE:
            return 0
        raise ConnectionError("the broker is away")

    sweep(world.services, waiting, Reminders(60))
    assert world.look(job_id).status == "queued", "the step before"
    assert world.queue.sent == [("inspect_checkpoint", checkpoint_id)], "the step after"


@pytest.mark.parametrize("kind", ["checkpoint", "dataset"])
def test_a_lost_inspection_is_sent_again_but_not_every_time(world: World, kind: str) -> None:
    id = getattr(world, kind)(state="pending")
    age(world)
    reminders = Reminders(60)
    for _ in range(3):
        sweep(world.services, lambda queue: 0, reminders)
    assert world.queue.sent == [(f"inspect_{kind}", id)]


@pytest.mark.parametrize("kind", ["checkpoint", "dataset"])
def test_an_inspection_that_runs_is_not_sent_again_but_one_that_was_lost(world: World, kind: str) -> None:
    id = getattr(world, kind)(state="pending")
    age(world)
    assert world.change(lambda work: getattr(work, f"{kind}s").begin_inspection(id, 3))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert not world.queue.sent
    with world.services.database.writing_engine.begin() as connection:
        lost = utc_now() - timedelta(seconds=world.services.store.lease_seconds + 1)
        connection.execute(update(TABLES[kind]).values(updated_at=lost))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [(f"inspect_{kind}", id)]


def test_an_inspection_that_ended_without_a_verdict_is_sent_again(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    age(world)
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "fill_the_disk")
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("inspect_checkpoint", checkpoint_id)]


def test_jobs_of_a_rejected_checkpoint_fail(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    job_id = world.job(checkpoint_id)
    world.change(lambda work: work.checkpoints.mark_rejected(checkpoint_id, {"detail": "No."}))
    sweep(world.services, lambda queue: 0, Reminders(60))
    error = world.look(job_id).error
    assert error is not None and error["code"] == "checkpoint_rejected"
