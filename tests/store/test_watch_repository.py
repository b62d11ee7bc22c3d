from __future__ import annotations

from store.database import Database
from store.watch_repository import Look
from tests.store.rows import claim_job, queued_job


def test_a_look_is_how_each_job_stands_and_its_last_event(database: Database) -> None:
    second, first = queued_job(database), queued_job(database)
    with database.write() as work:
        claim = claim_job(work, second, "w", 60)
        assert claim is not None
        work.jobs.heartbeat(
            second, claim.fence, 60, phase="training", progress={"step": 1}, metrics={"loss": 2}
        )
    with database.read() as work:
        newest = {id: work.jobs.events(id)[-1].id for id in (first, second)}
        looks = work.watches.looks([first, second, "job_none"])
    assert looks == {
        first: Look("queued", None, 0, {}, {}, newest[first]),
        second: Look("running", "training", 1, {"step": 1}, {"loss": 2}, newest[second]),
    }


def test_as_many_are_looked_at_as_are_watched(database: Database) -> None:
    id = queued_job(database)
    with database.read() as work:
        looks = work.watches.looks([id, *(f"job_{n}" for n in range(40_000))])
    assert list(looks) == [id]
