from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.worker.world import World
from worker.sweep import Reminders, sweep


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


def test_a_job_behind_others_in_the_queue_is_not_sent_twice(world: World) -> None:
    world.job()
    age(world)
    sweep(world.services, lambda queue: 1, Reminders(60))
    assert not world.queue.sent


@pytest.mark.parametrize("kind", ["checkpoint", "dataset"])
def test_a_lost_inspection_is_sent_again_but_not_every_time(world: World, kind: str) -> None:
    id = getattr(world, kind)(state="pending")
    age(world)
    reminders = Reminders(60)
    for _ in range(3):
        sweep(world.services, lambda queue: 0, reminders)
    assert world.queue.sent == [(f"inspect_{kind}", id)]


def test_jobs_of_a_rejected_checkpoint_fail(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    job_id = world.job(checkpoint_id)
    world.change(lambda work: work.checkpoints.mark_rejected(checkpoint_id, {"detail": "No."}))
    sweep(world.services, lambda queue: 0, Reminders(60))
    error = world.look(job_id).error
    assert error is not None and error["code"] == "checkpoint_rejected"
