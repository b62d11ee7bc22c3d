"""Whose turn it is, what counts as an attempt, and which jobs a message is sent for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest

from store.database import Database
from store.job_claims import Claim
from store.tables import utc_now
from tests.store.rows import checkpoint, dataset, get_job, job, queued_job

ERROR = {"code": "worker_crashed", "detail": "It crashed.", "retryable": True, "field": None}
ALL = ("any", "cpu", "gpu")


def claim_next(database: Database, devices: tuple[str, ...] = ALL, limit: int | None = None) -> Claim | None:
    with database.write() as work:
        return work.jobs.claim_next("w", 60, devices, limit)


def next_id(database: Database, devices: tuple[str, ...] = ALL, limit: int | None = None) -> str | None:
    claim = claim_next(database, devices, limit)
    return claim.job.id if claim else None


def claimed(database: Database) -> Claim:
    claim = claim_next(database)
    assert claim is not None
    return claim


def told(database: Database, id: str) -> list[dict[str, Any]]:
    with database.read() as work:
        return [event.data for event in work.jobs.events(id) if event.kind == "status"]


def test_owners_take_turns_and_each_owners_oldest_job_comes_first(database: Database) -> None:
    many = [queued_job(database, owner="many") for _ in range(3)]
    few = [queued_job(database, owner="few") for _ in range(2)]
    order = [next_id(database) for _ in range(6)]
    assert order == [many[0], few[0], many[1], few[1], many[2], None]


def test_an_owner_without_running_jobs_comes_before_older_jobs_of_others(database: Database) -> None:
    busy = [queued_job(database, owner="busy") for _ in range(3)]
    assert [next_id(database), next_id(database)] == busy[:2]
    newcomer = queued_job(database, owner="newcomer")
    assert next_id(database) == newcomer
    assert next_id(database) == busy[2]


def test_an_owner_at_the_running_limit_waits_until_a_job_has_ended(database: Database) -> None:
    ids = [queued_job(database, owner="a") for _ in range(3)]
    first = claim_next(database, limit=1)
    assert first is not None and first.job.id == ids[0]
    assert next_id(database, limit=1) is None
    other = queued_job(database, owner="b")
    assert next_id(database, limit=1) == other
    with database.write() as work:
        assert work.jobs.succeed(ids[0], first.fence, {}, [])
    assert next_id(database, limit=1) == ids[1]


def test_the_running_limit_holds_for_claims_at_the_same_time(database: Database) -> None:
    first = queued_job(database, owner="a", device="cpu")
    queued_job(database, owner="a", device="gpu")
    with ThreadPoolExecutor(1) as pool:
        with database.write() as work:
            claim = work.jobs.claim_next("w", 60, ("cpu",), 1)
            other = pool.submit(claim_next, database, ("gpu",), 1)
            # One that did not wait for this transaction would have its job by then.
            wait([other], timeout=0.5)
        assert claim is not None and claim.job.id == first
        assert other.result() is None


def test_claims_at_the_same_time_take_one_job_each(database: Database) -> None:
    ids = {queued_job(database, owner=f"o{n % 3}") for n in range(8)}
    with ThreadPoolExecutor(16) as pool:
        found = [claim.job.id for claim in pool.map(lambda n: claim_next(database), range(16)) if claim]
    assert len(found) == 8 and set(found) == ids


def test_workers_take_jobs_of_their_devices_alone(database: Database) -> None:
    anywhere, cpu, gpu = (queued_job(database, device=device) for device in ALL)
    assert next_id(database, ("gpu",)) == gpu
    assert next_id(database, ("cpu",)) == cpu
    assert next_id(database, ("cpu", "gpu")) is None
    assert next_id(database, ("any", "gpu")) == anywhere


@pytest.mark.parametrize("state", ["pending", "rejected"])
def test_jobs_whose_inputs_are_not_ready_are_passed_over(database: Database, state: str) -> None:
    queued_job(database, state=state)
    with database.write() as work:
        data = work.datasets.add(dataset(state=state))
        ready = work.checkpoints.add(checkpoint())
        work.jobs.add(job(ready.id, dataset_id=data.id))
    assert next_id(database) is None
    id = queued_job(database)
    assert next_id(database) == id


def test_a_failure_that_may_pass_waits_for_its_time(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database).fence
    with database.write() as work:
        assert work.jobs.retry(id, fence, ERROR, 1000, 12.5)
    row = get_job(database, id)
    assert (row.status, row.error, row.ran_seconds, row.handbacks) == ("queued", None, 12.5, 0)
    assert row.not_before is not None and row.not_before > utc_now() + timedelta(seconds=990)
    assert next_id(database) is None, "not before its time"
    with database.write() as work:
        work.jobs.get(id).not_before = utc_now() - timedelta(seconds=1)  # type: ignore[union-attr]
    again = claimed(database)
    assert (again.job.id, again.job.attempt, again.job.not_before) == (id, 2, None)
    assert told(database, id)[2] == {"status": "queued", "attempt": 1, "error": ERROR}


def test_a_job_handed_back_is_ready_at_once_and_the_attempt_does_not_count(database: Database) -> None:
    id = queued_job(database)
    for n in range(1, 4):
        fence = claimed(database).fence
        with database.write() as work:
            assert work.jobs.hand_back(id, fence, float(n))
    row = get_job(database, id)
    assert (row.attempt, row.handbacks, row.not_before, row.ran_seconds) == (3, 3, None, 3.0)
    assert told(database, id)[-1] == {"status": "queued", "attempt": 3, "handed_back": True}
    with database.write() as work:
        claim = work.jobs.claim_next("w", -1, ALL)
        assert claim is not None
        assert work.jobs.sweep(utc_now(), max_attempts=2).requeued == [id], "the first attempt that counts"
        work.jobs.claim_next("w", -1, ALL)
        assert work.jobs.sweep(utc_now(), max_attempts=2).failed == [id]


def test_the_events_tell_of_every_lost_worker(database: Database) -> None:
    id = queued_job(database)
    with database.write() as work:
        work.jobs.claim_next("w", -1, ALL)
        work.jobs.sweep(utc_now(), max_attempts=3)
    last = told(database, id)[-1]
    assert (last["status"], last["attempt"], last["error"]["code"]) == ("queued", 1, "worker_lost")


def test_a_heartbeat_records_how_long_the_job_has_run(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database).fence
    with database.write() as work:
        work.jobs.heartbeat(id, fence, 60, ran_seconds=7.5)
        work.jobs.heartbeat(id, fence, 60)
    assert get_job(database, id).ran_seconds == 7.5


def test_what_is_kept_replaces_what_was_kept_before(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database).fence
    first, second = "aa" * 32, "bb" * 32
    with database.write() as work:
        kept = [work.jobs.keep(id, fence, sha256) for sha256 in (first, second, second)]
        assert work.blobs.in_use([first, second]) == {second}
    assert [(each.owned, each.replaced) for each in kept] == [(True, None), (True, first), (True, None)]
    with database.write() as work:
        work.jobs.hand_back(id, fence, 0.0)
        assert not work.jobs.keep(id, fence, first).owned
    assert claimed(database).job.resume_sha256 == second


def test_only_ended_jobs_forget_what_they_would_resume_from(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database).fence
    sha256 = "aa" * 32
    with database.write() as work:
        work.jobs.keep(id, fence, sha256)
        work.jobs.forget_resume(id, sha256)
        assert work.jobs.ended_with_resume() == []
        assert work.blobs.in_use([sha256])
        work.jobs.fail(id, fence, ERROR)
        assert work.jobs.ended_with_resume() == [(id, sha256)]
        work.jobs.forget_resume(id, sha256)
        assert work.jobs.ended_with_resume() == [] and not work.blobs.in_use([sha256])


def test_wake_ups_are_for_jobs_that_could_run_now(database: Database) -> None:
    forgotten, on_gpu = queued_job(database, owner="a"), queued_job(database, owner="b", device="gpu")
    queued_job(database, state="pending")
    later = queued_job(database, owner="c", not_before=utc_now() + timedelta(seconds=100))
    soon = utc_now() + timedelta(seconds=60)
    with database.write() as work:
        assert work.jobs.eligible_by_device() == {"any": 1, "gpu": 1}
        assert work.jobs.forgotten("any", utc_now() - timedelta(seconds=60)) == [], "sent a moment ago"
        assert work.jobs.forgotten("any", soon) == [forgotten] and work.jobs.forgotten("gpu", soon) == [
            on_gpu
        ]
        work.jobs.mark_sent([forgotten])
        work.jobs.get(later).not_before = utc_now()  # type: ignore[union-attr]
        work.jobs.get(later).enqueued_at = None  # type: ignore[union-attr]
    with database.read() as work:
        assert work.jobs.forgotten("any", utc_now() - timedelta(seconds=60)) == [later]


def test_jobs_of_an_owner_at_the_running_limit_are_not_sent_again(database: Database) -> None:
    for _ in range(2):
        queued_job(database, owner="a")
    claimed(database)
    soon = utc_now() + timedelta(seconds=60)
    with database.read() as work:
        assert work.jobs.eligible_by_device(1) == {} and not work.jobs.forgotten("any", soon, 1)
        assert work.jobs.eligible_by_device(2) == {"any": 1} and len(work.jobs.forgotten("any", soon, 2)) == 1
