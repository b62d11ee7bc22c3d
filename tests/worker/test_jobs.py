from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from core.spec import Limits
from tests.worker.doubles import PREFIX
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker.jobs import clean_up, run_job
from worker.sweep import Reminders, sweep


def run(world: World, job_id: str, double: str) -> None:
    run_job(world.services, job_id, entry=PREFIX + double)


@contextmanager
def running(world: World, job_id: str, double: str) -> Iterator[None]:
    """The job in another thread; inside the block it trains, after it the attempt has ended."""
    thread = threading.Thread(target=run, args=(world, job_id, double))
    thread.start()
    assert wait_for(lambda: world.look(job_id).phase == "training")
    yield
    thread.join(60)
    assert not thread.is_alive()


def test_a_job_succeeds_and_publishes_its_files(world: World) -> None:
    job_id = world.job(world.checkpoint(b"weights"), world.dataset())
    run(world, job_id, "quantize")
    job = world.look(job_id)
    assert (job.status, job.attempt, job.error) == ("succeeded", 1, None)
    assert job.report == {"bits": job.spec["bits"]}
    artifact = world.change(lambda work: work.artifacts.get(job_id, "model.onnx"))
    with world.services.blobs.open(artifact.blob_sha256) as file:
        assert file.read() == b"onnx of weights"
    phases = [
        event.data["phase"]
        for event in world.change(lambda work: work.jobs.events(job_id))
        if event.kind == "phase"
    ]
    assert phases[0] == "loading" and phases[-1] == "publishing"
    assert not list(world.services.workspaces.iterdir())


def test_a_second_message_changes_nothing(world: World) -> None:
    job_id = world.job()
    run(world, job_id, "quantize")
    run(world, job_id, "kill_itself")
    assert world.look(job_id).status == "succeeded"


@pytest.mark.parametrize("state", ["pending", "rejected"])
def test_a_job_waits_for_its_checkpoint(world: World, state: str) -> None:
    job_id = world.job(world.checkpoint(state=state))
    run(world, job_id, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("queued", 0)


def test_a_users_error_fails_at_once(world: World) -> None:
    job_id = world.job()
    run(world, job_id, "refuse")
    job = world.look(job_id)
    assert job.status == "failed" and job.error is not None
    assert job.error["code"] == "empty_file"
    assert not world.queue.sent


def test_a_crash_is_retried_a_bounded_number_of_times(world: World) -> None:
    job_id = world.job()
    for _ in range(2):
        run(world, job_id, "kill_itself")
        assert world.look(job_id).status == "queued"
    run(world, job_id, "kill_itself")
    job = world.look(job_id)
    assert (job.status, job.attempt) == ("failed", 3)
    assert job.error is not None and job.error["code"] == "worker_crashed"
    assert world.queue.sent == [("quantize", job_id)] * 2


@pytest.mark.parametrize("double", ["run_until_told", "ignore_everything"])
def test_a_running_job_can_be_canceled(world: World, double: str) -> None:
    job_id = world.job()
    with running(world, job_id, double):
        assert world.change(lambda work: work.jobs.request_cancel(job_id)) == "running"
    assert world.look(job_id).status == "canceled"


def during(world: World, monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], Any]) -> None:
    """Acts just before the blob store's `method` works."""
    original = getattr(type(world.services.blobs), method)

    def acting(self: Any, *args: Any) -> Any:
        act()
        return original(self, *args)

    monkeypatch.setattr(type(world.services.blobs), method, acting)


@pytest.mark.parametrize("method", ["local_path", "put_file"])
def test_a_job_can_be_canceled_while_it_fetches_and_publishes(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    job_id = world.job()
    during(world, monkeypatch, method, lambda: world.change(lambda work: work.jobs.request_cancel(job_id)))
    run(world, job_id, "quantize")
    assert world.look(job_id).status == "canceled"
    assert not world.change(lambda work: work.artifacts.of_job(job_id))


def test_the_users_deadline_fails_the_job(world: World) -> None:
    job_id = world.job(limits=Limits(seconds=0.5))
    run(world, job_id, "run_until_told")
    error = world.look(job_id).error
    assert error is not None and (error["code"], error["field"]) == ("deadline_exceeded", "limits.seconds")


def test_a_stopping_worker_hands_its_job_back(world: World) -> None:
    job_id = world.job()
    with running(world, job_id, "ignore_everything"):
        world.services.stopping.set()
    assert world.look(job_id).status == "queued"
    assert world.queue.sent == [("quantize", job_id)]
    world.services.stopping.clear()
    run(world, job_id, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("succeeded", 2)


def test_a_worker_that_lost_its_lease_writes_nothing(world: World) -> None:
    job_id = world.job()
    with running(world, job_id, "ignore_everything"):
        # What the sweep does for a worker that seems dead, and another worker's claim.
        fence = world.look(job_id).fence
        world.change(lambda work: work.jobs.requeue(job_id, fence))
        world.change(lambda work: work.jobs.claim(job_id, "another", 30))
    job = world.look(job_id)
    assert (job.status, job.worker, job.attempt) == ("running", "another", 2)
    assert not world.queue.sent


def test_a_database_outage_shorter_than_the_lease_is_borne(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = world.job()
    original, failures = type(world.services.database).write, iter([True, True])

    def write(self: Any) -> Any:
        if threading.current_thread().name.startswith("lease") and next(failures, False):
            raise ConnectionError("the database is away")
        return original(self)

    monkeypatch.setattr(type(world.services.database), "write", write)
    run(world, job_id, "quantize")
    assert world.look(job_id).status == "succeeded"


def test_a_file_outside_the_output_is_not_published(world: World) -> None:
    job_id = world.job()
    run(world, job_id, "name_a_foreign_file")
    job = world.look(job_id)
    assert job.status == "failed"
    assert not world.change(lambda work: work.artifacts.of_job(job_id))


def test_a_missing_blob_fails_the_job_clearly(world: World) -> None:
    job_id = world.job(world.checkpoint(b"lost"))
    world.services.blobs.delete(world.blob(b"lost"))
    run(world, job_id, "quantize")
    error = world.look(job_id).error
    assert error is not None and error["code"] == "blob_missing"


def test_workspaces_of_dead_attempts_are_removed_and_others_kept(world: World) -> None:
    job_id = world.job()
    world.change(lambda work: work.jobs.claim(job_id, "another", 30))
    names = [f"{job_id}-1", f"{job_id}-0", "job_unknown-1", "ckpt_unknown-999999999"]
    for name in names:
        (world.services.workspaces / name).mkdir(parents=True)
    clean_up(world.services)
    assert [path.name for path in world.services.workspaces.iterdir()] == [f"{job_id}-1"]


def test_a_lease_that_ran_out_is_swept_and_run_again(world: World) -> None:
    job_id = world.job()
    world.change(lambda work: work.jobs.claim(job_id, "a worker that died", 30))
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(text("UPDATE job SET lease_expires_at = '2020-01-01 00:00:00.000000'"))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("quantize", job_id)]
    run(world, job_id, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("succeeded", 2)
