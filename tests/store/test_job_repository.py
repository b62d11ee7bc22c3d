from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import inspect

from store.database import Database, UnitOfWork
from store.errors import AlreadyEnded
from store.job_claims import Claim
from store.tables import Artifact, Job, utc_now
from tests.store.rows import checkpoint, claim_job, dataset, get_job, job, queued_job

ERROR = {"code": "diverged", "detail": "It diverged.", "retryable": False, "field": None}


def claim(database: Database, id: str, lease_seconds: float = 60, worker: str = "w") -> Claim | None:
    with database.write() as work:
        return claim_job(work, id, worker, lease_seconds)


def claimed(database: Database, id: str, lease_seconds: float = 60) -> Claim:
    found = claim(database, id, lease_seconds)
    assert found is not None
    return found


def model(size: int = 3) -> Artifact:
    return Artifact(
        name="model.onnx", blob_sha256="ef" * 32, bytes=size, media_type="application/octet-stream"
    )


def statuses(database: Database, id: str) -> list[Any]:
    with database.read() as work:
        return [event.data["status"] for event in work.jobs.events(id) if event.kind == "status"]


def test_a_claim_leases_the_job_and_raises_the_fence(database: Database) -> None:
    id = queued_job(database)
    first = claimed(database, id)
    assert (first.fence, first.job.attempt, first.job.status, first.job.worker) == (1, 1, "running", "w")
    assert first.job.lease_expires_at is not None
    assert timedelta(seconds=55) < first.job.lease_expires_at - utc_now() < timedelta(seconds=61)
    assert claim(database, id) is None


@pytest.mark.parametrize("round", range(3))
def test_of_many_claims_at_once_exactly_one_wins(database: Database, round: int) -> None:
    id = queued_job(database)
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda n: claim(database, id, worker=f"w{n}"), range(32)))
    winners = [each for each in claims if each is not None]
    assert len(winners) == 1
    assert get_job(database, id).worker == winners[0].job.worker
    assert get_job(database, id).attempt == 1


def test_concurrent_read_modify_writes_never_fail_as_locked(database: Database) -> None:
    for _ in range(40):
        queued_job(database)

    def run(_: int) -> bool:
        with database.write() as work:
            claim = work.jobs.claim_next("w", 60, ("any",))
        assert claim is not None
        id, fence = claim.job.id, claim.fence
        for step in range(5):
            with database.write() as work:
                assert work.jobs.heartbeat(id, fence, 60, phase="training", progress={"step": step}).owned
        with database.write() as work:
            return work.jobs.succeed(id, fence, {"version": 1}, [model()])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(40)))


@pytest.mark.parametrize("state", ["pending", "rejected"])
def test_a_job_waits_for_its_checkpoint_and_dataset(database: Database, state: str) -> None:
    assert claim(database, queued_job(database, state=state)) is None
    with database.write() as work:
        data = work.datasets.add(dataset(state=state))
        ready = work.checkpoints.add(checkpoint())
        id = work.jobs.add(job(ready.id, dataset_id=data.id)).id
    assert claim(database, id) is None
    with database.read() as work:
        assert work.jobs.waiting_for(data.id) == work.jobs.waiting_for(ready.id) == [(id, "any")]


def test_writes_with_a_stale_fence_change_nothing(database: Database) -> None:
    id = queued_job(database)
    stale = claimed(database, id, lease_seconds=-1).fence
    with database.write() as work:
        assert work.jobs.sweep(utc_now(), max_attempts=3).requeued == [id]
    for again in (False, True):  # once while it is queued again, once while another worker has it
        if again:
            assert claimed(database, id).fence == stale + 1
        before = get_job(database, id)
        with database.write() as work:
            assert not work.jobs.heartbeat(id, stale, 60, phase="training", metrics={"loss": 1.0}).owned
            assert not work.jobs.succeed(id, stale, {"version": 1}, [model()])
            assert not work.jobs.fail(id, stale, ERROR)
            assert not work.jobs.cancel_running(id, stale)
            assert not work.jobs.hand_back(id, stale, 1.0)
            assert not work.jobs.retry(id, stale, ERROR, 0, 1.0)
            assert not work.jobs.keep(id, stale, "ab" * 32).owned
        after = get_job(database, id)
        for column in Job.__table__.columns:
            assert getattr(after, column.key) == getattr(before, column.key), column.key
        with database.read() as work:
            assert not work.artifacts.of_job(id)


def test_success_publishes_artifacts_once(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with ThreadPoolExecutor(8) as pool:

        def succeed(size: int) -> bool:
            with database.write() as work:
                return work.jobs.succeed(id, fence, {"size": size}, [model(size)])

        assert sum(pool.map(succeed, range(8))) == 1
    row = get_job(database, id)
    with database.read() as work:
        [artifact] = work.artifacts.of_job(id)
    assert row.status == "succeeded" and row.report == {"size": artifact.bytes}
    assert row.progress["fraction"] == 1.0 and row.finished_at is not None and row.lease_expires_at is None
    assert statuses(database, id) == ["queued", "running", "succeeded"]


def test_nothing_is_kept_of_a_transaction_that_raises(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with pytest.raises(RuntimeError), database.write() as work:
        assert work.jobs.succeed(id, fence, {"version": 1}, [model()])
        raise RuntimeError
    assert get_job(database, id).status == "running"


def test_a_heartbeat_keeps_what_it_does_not_name_and_tells_phases_once(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with database.write() as work:
        work.jobs.heartbeat(id, fence, 60, phase="training", progress={"step": 1}, metrics={"loss": 2.0})
        work.jobs.heartbeat(id, fence, 60, phase="training", progress={"step": 2})
        beat = work.jobs.heartbeat(id, fence, 60)
    assert beat.owned and not beat.cancel_requested
    row = get_job(database, id)
    assert (row.phase, row.progress, row.metrics) == ("training", {"step": 2}, {"loss": 2.0})
    with database.read() as work:
        assert [e.data for e in work.jobs.events(id) if e.kind == "phase"] == [{"phase": "training"}]


def test_losses_that_are_no_numbers_are_null(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with database.write() as work:
        work.jobs.heartbeat(id, fence, 60, metrics={"loss": float("nan"), "all": [float("inf"), 1.0]})
    assert get_job(database, id).metrics == {"loss": None, "all": [None, 1.0]}


def test_canceling_a_queued_job_ends_it_at_once(database: Database) -> None:
    id = queued_job(database)
    with database.write() as work:
        assert work.jobs.request_cancel(id) == "canceled"
    with database.write() as work:
        assert work.jobs.request_cancel(id) == "canceled"
    assert claim(database, id) is None
    assert statuses(database, id) == ["queued", "canceled"]


def test_canceling_a_running_job_asks_its_worker(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    for _ in range(2):
        with database.write() as work:
            assert work.jobs.request_cancel(id) == "running"
    with database.write() as work:
        assert work.jobs.heartbeat(id, fence, 60).cancel_requested
        assert work.jobs.cancel_running(id, fence)
    assert get_job(database, id).status == "canceled"


def test_canceling_an_unknown_job_says_so(database: Database) -> None:
    with database.write() as work:
        assert work.jobs.request_cancel("job_none") is None


def test_a_job_handed_back_after_a_cancel_that_its_worker_had_not_heard_is_canceled(
    database: Database,
) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with database.write() as work:
        work.jobs.request_cancel(id)
        assert work.jobs.hand_back(id, fence, 1.0) == "canceled"
        assert work.jobs.hand_back(id, fence, 1.0) is None
    assert get_job(database, id).status == "canceled"


def handed_back(work: UnitOfWork, claim: Claim) -> None:
    work.jobs.hand_back(claim.job.id, claim.fence, 1.0)


def retried(work: UnitOfWork, claim: Claim) -> None:
    work.jobs.retry(claim.job.id, claim.fence, ERROR, 0.0, 1.0)


def swept(work: UnitOfWork, claim: Claim) -> None:
    work.jobs.sweep(utc_now() + timedelta(minutes=2), max_attempts=3)


@pytest.mark.parametrize("again", [handed_back, retried, swept])
def test_a_cancel_beside_a_requeue_is_neither_lost_nor_stuck(
    database: Database, again: Callable[[UnitOfWork, Claim], None]
) -> None:
    def together(*changes: Callable[[UnitOfWork], object]) -> None:
        barrier = Barrier(len(changes))

        def change(how: Callable[[UnitOfWork], object]) -> None:
            barrier.wait()
            with database.write() as work:
                how(work)

        for done in [pool.submit(change, how) for how in changes]:
            done.result()

    with ThreadPoolExecutor(2) as pool:
        for _ in range(30):
            claim = claimed(database, queued_job(database))
            id = claim.job.id
            together(partial(again, claim=claim), lambda work, id=id: work.jobs.request_cancel(id))
            if get_job(database, id).status == "running":  # asked after this sweep's look: the next one's
                with database.write() as work:
                    swept(work, claim)
            assert get_job(database, id).status == "canceled"


def test_two_who_cancel_at_once_are_both_obeyed(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            id, barrier = queued_job(database), Barrier(4)

            def cancel(_: int, id: str = id, barrier: Barrier = barrier) -> str | None:
                barrier.wait()
                with database.write() as work:
                    return work.jobs.request_cancel(id)

            assert list(pool.map(cancel, range(4))) == ["canceled"] * 4
            assert statuses(database, id) == ["queued", "canceled"]


def test_what_has_succeeded_is_not_canceled(database: Database) -> None:
    claim = claimed(database, queued_job(database))
    with database.write() as work:
        assert work.jobs.succeed(claim.job.id, claim.fence, {"version": 1}, [])
    with pytest.raises(AlreadyEnded), database.write() as work:
        work.jobs.request_cancel(claim.job.id)


def test_a_job_handed_back_is_queued_without_traces(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with database.write() as work:
        work.jobs.heartbeat(id, fence, 60, phase="training", progress={"step": 2})
        assert work.jobs.hand_back(id, fence, 1.0)
    row = get_job(database, id)
    assert (row.status, row.phase, row.progress, row.worker) == ("queued", None, {}, None)
    assert claimed(database, id).fence == fence + 1


def test_the_sweep_ends_jobs_that_lost_every_worker(database: Database) -> None:
    id = queued_job(database)
    for attempt in range(1, 3):
        claimed(database, id, lease_seconds=-1)
        with database.write() as work:
            result = work.jobs.sweep(utc_now(), max_attempts=2)
        assert (result.requeued, result.failed) == (([id], []) if attempt == 1 else ([], [id]))
    error = get_job(database, id).error
    assert error is not None and error["code"] == "attempts_exhausted"


def test_the_sweep_leaves_living_jobs_alone_and_cancels_asked_ones(database: Database) -> None:
    living, asked = queued_job(database), queued_job(database)
    claimed(database, living)
    claimed(database, asked, lease_seconds=-1)
    with database.write() as work:
        work.jobs.request_cancel(asked)
        result = work.jobs.sweep(utc_now(), max_attempts=3)
    assert (result.canceled, result.requeued, result.failed) == ([asked], [], [])
    assert get_job(database, living).status == "running"


def test_jobs_on_rejected_uploads_fail_with_the_reason(database: Database) -> None:
    on_checkpoint = queued_job(database, state="pending")
    checkpoint_id = get_job(database, on_checkpoint).checkpoint_id
    with database.write() as work:
        data = work.datasets.add(dataset(state="pending"))
        ready = work.checkpoints.add(checkpoint())
        on_dataset = work.jobs.add(job(ready.id, dataset_id=data.id)).id
        assert checkpoint_id is not None
        assert work.checkpoints.mark_rejected(
            checkpoint_id, {"code": "missing_keys", "detail": "fc is missing"}
        )
        assert work.datasets.mark_rejected(data.id, {"code": "invalid_dataset", "detail": "no y"})
    with database.write() as work:
        assert set(work.jobs.sweep(utc_now(), max_attempts=3).rejected) == {on_checkpoint, on_dataset}
    errors = [get_job(database, id).error for id in (on_checkpoint, on_dataset)]
    assert [error and error["code"] for error in errors] == ["checkpoint_rejected", "dataset_rejected"]
    assert errors[0] is not None and "fc is missing" in errors[0]["detail"]


def test_pages_come_without_the_reports(database: Database) -> None:
    id = queued_job(database)
    fence = claimed(database, id).fence
    with database.write() as work:
        work.jobs.succeed(id, fence, {"version": 1}, [])
    with database.read() as work:
        [row], _ = work.jobs.page("local", 1)
    assert inspect(row).unloaded == {"report"}


def test_pages_are_newest_first_and_filtered(database: Database) -> None:
    ids = [queued_job(database) for _ in range(5)]
    claimed(database, ids[0])
    with database.read() as work:
        first, cursor = work.jobs.page("local", 2)
        second, cursor_2 = work.jobs.page("local", 3, cursor)
        running, end = work.jobs.page("local", 3, status="running")
        assert work.jobs.page("somebody else", 5) == ([], None)
        assert work.jobs.page("local", 5, method="zaq") == ([], None)
    assert [row.id for row in [*first, *second]] == sorted(ids, reverse=True)
    assert cursor is not None and cursor_2 is None and end is None
    assert [row.id for row in running] == [ids[0]]
