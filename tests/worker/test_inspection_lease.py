from __future__ import annotations

import threading
from datetime import datetime

from tests.worker.doubles import PREFIX
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker.inspection_lease import InspectionLease
from worker.inspections import inspect


def last_sign(world: World, checkpoint_id: str) -> datetime:
    return world.change(lambda work: work.checkpoints.get(checkpoint_id)).updated_at


def test_an_inspection_shows_that_it_goes_on_until_it_ends(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    inspection = threading.Thread(
        target=inspect,
        args=(world.services, "checkpoint", checkpoint_id),
        kwargs={"entry": PREFIX + "ignore_everything"},
    )
    inspection.start()
    try:
        for _ in range(3):
            before = last_sign(world, checkpoint_id)
            assert wait_for(lambda before=before: last_sign(world, checkpoint_id) > before)
    finally:
        world.services.stopping.set()
        inspection.join()
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 0), "its mark held to the end"
    assert not [thread for thread in threading.enumerate() if checkpoint_id in thread.name]


def test_a_beat_leaves_alone_what_was_sent_again(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    mark = world.change(lambda work: work.checkpoints.begin_inspection(checkpoint_id, 3))
    database = world.services.database
    lease = InspectionLease(database, lambda work: work.checkpoints, checkpoint_id, mark, every=1000)
    lease.beat()
    assert lease.mark == last_sign(world, checkpoint_id) > mark
    world.change(lambda work: work.checkpoints.renew(work.checkpoints.hold(checkpoint_id, "local")))
    sent_again = last_sign(world, checkpoint_id)
    held = lease.mark
    lease.beat()
    assert lease.mark == held != sent_again == last_sign(world, checkpoint_id)
