from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.spec import Limits
from store.errors import Unavailable
from store.job_repository import JobRepository
from store.tables import utc_now
from tests.store.blob_stores import damage
from tests.store.rows import claim_job
from tests.worker.doubles import PREFIX
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker.attempt import retry_delay
from worker.jobs import clean_up, run_jobs
from worker.settings import WorkerSettings
from worker.sweep import Reminders, sweep
from worker.workspace import workspace


def run(world: World, double: str) -> None:
    run_jobs(world.services, ("any", "cpu"), entry=PREFIX + double)


@contextmanager
def running(world: World, job_id: str, double: str) -> Iterator[None]:
    """The job in another thread; inside the block it trains, after it the attempt has ended."""
    thread = threading.Thread(target=run, args=(world, double))
    thread.start()
    assert wait_for(lambda: world.look(job_id).phase == "training")
    yield
    thread.join(60)
    assert not thread.is_alive()


def test_a_job_succeeds_and_publishes_its_files(world: World) -> None:
    job_id = world.job(world.checkpoint(b"weights"), world.dataset())
    run(world, "quantize")
    job = world.look(job_id)
    assert (job.status, job.attempt, job.error) == ("succeeded", 1, None)
    assert job.report == {"bits": job.spec["bits"]}
    (artifact,) = world.change(lambda work: work.artifacts.of_job(job_id))
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
    run(world, "quantize")
    run(world, "kill_itself")
    assert world.look(job_id).status == "succeeded"


@pytest.mark.parametrize("state", ["pending", "rejected"])
def test_a_job_waits_for_its_checkpoint(world: World, state: str) -> None:
    job_id = world.job(world.checkpoint(state=state))
    run(world, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("queued", 0)


def test_a_users_error_fails_at_once(world: World) -> None:
    job_id = world.job()
    run(world, "refuse")
    job = world.look(job_id)
    assert job.status == "failed" and job.error is not None
    assert job.error["code"] == "empty_file"
    assert not world.queue.sent


def test_a_crash_is_retried_a_bounded_number_of_times_and_later_each_time(world: World) -> None:
    job_id = world.job()
    waits = []
    for _ in range(2):
        run(world, "kill_itself")
        job = world.look(job_id)
        assert job.status == "queued" and job.not_before is not None
        waits.append((job.not_before - utc_now()).total_seconds())
        run(world, "quantize")
        assert world.look(job_id).status == "queued", "not before its time"
        world.alter(job_id, not_before=None)
    run(world, "kill_itself")
    job = world.look(job_id)
    assert (job.status, job.attempt) == ("failed", 3)
    assert job.error is not None and job.error["code"] == "worker_crashed"
    assert 700 < waits[0] < 1300 and 1400 < waits[1] < 2600
    assert not world.queue.sent, "the sweep sends it when its time has come"
    told = [event.data for event in world.change(lambda work: work.jobs.events(job_id))]
    assert [each["error"]["code"] for each in told if "error" in each] == ["worker_crashed"] * 3


def test_waits_are_bounded_and_differ() -> None:
    settings = WorkerSettings(retry_seconds=5, retry_max_seconds=300)
    assert {retry_delay(settings, 10_000) for _ in range(20)} == {300}
    first = {retry_delay(settings, 1) for _ in range(20)}
    assert len(first) > 1 and all(3.75 <= delay <= 6.25 for delay in first)


def test_one_message_is_enough_for_all_that_waits(world: World) -> None:
    ids = [world.job() for _ in range(3)]
    elsewhere = world.job(device="gpu")
    run(world, "quantize")
    assert [world.look(id).status for id in ids] == ["succeeded"] * 3
    assert world.look(elsewhere).status == "queued"


def test_a_worker_told_to_stop_takes_no_further_job(world: World) -> None:
    job_id = world.job()
    world.services.stopping.set()
    run(world, "quantize")
    assert world.look(job_id).status == "queued" and world.look(job_id).attempt == 0


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
    run(world, "quantize")
    assert world.look(job_id).status == "canceled"
    assert not world.change(lambda work: work.artifacts.of_job(job_id))


def test_the_users_deadline_fails_the_job(world: World) -> None:
    job_id = world.job(limits=Limits(seconds=0.5))
    run(world, "run_until_told")
    error = world.look(job_id).error
    assert error is not None and (error["code"], error["field"]) == ("deadline_exceeded", "limits.seconds")


def test_a_stopping_worker_hands_its_job_back(world: World) -> None:
    job_id = world.job(device="cpu")
    with running(world, job_id, "ignore_everything"):
        world.services.stopping.set()
    job = world.look(job_id)
    assert (job.status, job.handbacks, job.not_before) == ("queued", 1, None)
    assert world.queue.sent == [("quantize on cpu", job_id)]
    world.services.stopping.clear()
    run(world, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("succeeded", 2)


def test_attempts_that_were_handed_back_do_not_count(world: World) -> None:
    job_id = world.job()
    world.alter(job_id, attempt=5, handbacks=5)
    for left in (True, True, False):
        run(world, "kill_itself")
        assert world.look(job_id).status == ("queued" if left else "failed")
        world.alter(job_id, not_before=None)


class Pauses(threading.Event):
    """Ends every wait at once, and remembers how long it would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_an_outage_of_the_blob_store_does_not_fail_what_is_queued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [world.job() for _ in range(7)]
    pauses = Pauses()
    world.services = replace(world.services, stopping=pauses)

    def away() -> None:
        raise Unavailable("The blob store cannot be reached. Try again soon.")

    with monkeypatch.context() as outage:
        during(world, outage, "local_path", away)
        run(world, "quantize")
        world.alter(ids[0], not_before=None, attempt=8, handbacks=8)
        run(world, "quantize")
    assert pauses.seconds == [1, 2, 4, 8, 16, 30, 30, 1]
    jobs = [world.look(id) for id in ids]
    assert [(job.status, job.attempt - job.handbacks) for job in jobs] == [("queued", 0)] * 7
    waits = [(job.not_before - utc_now()).total_seconds() for job in jobs if job.not_before]
    assert len(waits) == 7 and waits[0] > 2600 and max(waits[1:]) < 1300
    told = world.change(lambda work: work.jobs.events(ids[1]))[-1].data
    assert told["error"]["code"] == "service_unavailable" and told["handed_back"] is True
    for id in ids:
        world.alter(id, not_before=None)
    run(world, "quantize")
    assert {world.look(id).status for id in ids} == {"succeeded"}


@pytest.mark.parametrize("double", ["fill_the_disk", "import_what_is_not_installed"])
def test_a_machine_that_fails_its_jobs_claims_no_more_once_it_is_told_to_stop(
    world: World, monkeypatch: pytest.MonkeyPatch, double: str
) -> None:
    ids = [world.job() for _ in range(2)]
    pauses = Pauses()
    monkeypatch.setattr(pauses, "wait", lambda timeout: pauses.set())
    world.services = replace(world.services, stopping=pauses)
    run(world, double)
    found = [(job.status, job.attempt, job.handbacks) for job in map(world.look, ids)]
    assert found == [("queued", 1, 1), ("queued", 0, 0)]


def test_what_every_machine_fails_ends_all_the_same(world: World) -> None:
    job_id = world.job()
    world.services = replace(world.services, stopping=Pauses())
    world.alter(job_id, attempt=19, handbacks=19)
    for handbacks, status in ((20, "queued"), (20, "queued"), (20, "queued"), (20, "failed")):
        run(world, "fill_the_disk")
        job = world.look(job_id)
        assert (job.status, job.handbacks) == (status, handbacks)
        world.alter(job_id, not_before=None)
    assert job.error is not None and job.error["code"] == "disk_full"


def test_time_counts_over_all_attempts(world: World) -> None:
    job_id = world.job(limits=Limits(seconds=600))
    with running(world, job_id, "run_until_told"):
        assert wait_for(lambda: world.look(job_id).ran_seconds > 0)
        world.services.stopping.set()
    ran = world.look(job_id).ran_seconds
    assert 0 < ran < 600
    world.services.stopping.clear()
    world.alter(job_id, ran_seconds=599.9)
    run(world, "run_until_told")
    error = world.look(job_id).error
    assert error is not None and (error["code"], error["field"]) == ("deadline_exceeded", "limits.seconds")


def test_a_slow_blob_store_is_not_charged_to_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, charged = world.job(limits=Limits(seconds=600)), list[float]()
    beat, beats = JobRepository.heartbeat, list[float]()

    def beating(self: JobRepository, *args: Any, **values: Any) -> Any:
        beats.append(values["ran_seconds"])
        return beat(self, *args, **values)

    def slow() -> None:
        begun = len(beats)
        assert wait_for(lambda: len(beats) > begun + 2)
        charged.extend((beats[-1], world.look(job_id).ran_seconds))

    monkeypatch.setattr(JobRepository, "heartbeat", beating)
    during(world, monkeypatch, "local_path", slow)
    run(world, "quantize")
    assert world.look(job_id).status == "succeeded" and charged == [0, 0]


def test_a_job_whose_time_is_over_says_so_itself(world: World) -> None:
    job_id = world.job(limits=Limits(seconds=5))
    world.alter(job_id, ran_seconds=5.5)
    run(world, "run_until_told")
    error = world.look(job_id).error
    assert error is not None and error["code"] == "deadline_exceeded"
    assert "ran past limits.seconds" in error["detail"]


def test_a_worker_that_lost_its_lease_writes_nothing(world: World) -> None:
    job_id = world.job()
    with running(world, job_id, "ignore_everything"):
        # What the sweep does for a worker that seems dead, and another worker's claim.
        fence = world.look(job_id).fence
        world.change(lambda work: work.jobs.hand_back(job_id, fence, 0.0))
        world.change(lambda work: claim_job(work, job_id, "another", 30))
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
    run(world, "quantize")
    assert world.look(job_id).status == "succeeded"


def test_a_file_outside_the_output_is_not_published(world: World) -> None:
    job_id = world.job()
    run(world, "name_a_foreign_file")
    job = world.look(job_id)
    assert job.status == "failed"
    assert not world.change(lambda work: work.artifacts.of_job(job_id))


def test_a_missing_blob_fails_the_job_clearly(world: World) -> None:
    job_id = world.job(world.checkpoint(b"lost"))
    world.services.blobs.delete(world.blob(b"lost"))
    run(world, "quantize")
    error = world.look(job_id).error
    assert error is not None and error["code"] == "blob_missing"


def test_a_damaged_blob_fails_the_job_clearly_after_all_its_attempts(world: World) -> None:
    job_id = world.job(world.checkpoint(b"weights"))
    damage(world.services.blobs, world.blob(b"weights"))
    for status in ("queued", "queued", "failed"):
        run(world, "quantize")
        job = world.look(job_id)
        assert (job.status, job.handbacks) == (status, 0)
        world.alter(job_id, not_before=None)
    assert job.error is not None and job.error["code"] == "blob_corrupt"
    assert "upload it anew" in job.error["detail"]


def test_workspaces_of_killed_workers_are_removed_and_others_kept(world: World) -> None:
    with workspace(world.services.workspaces, "job_1-2"):
        for name in ("job_1-1", "ckpt_1-abc"):
            (world.services.workspaces / name).mkdir()
        (world.services.workspaces / "job_1-1.lock").touch()
        clean_up(world.services)
        assert {path.name for path in world.services.workspaces.iterdir()} == {"job_1-2", "job_1-2.lock"}
    assert not list(world.services.workspaces.iterdir())


def test_a_lease_that_ran_out_is_swept_and_run_again(world: World) -> None:
    job_id = world.job()
    world.change(lambda work: claim_job(work, job_id, "a worker that died", 30))
    world.alter(job_id, lease_expires_at=utc_now() - timedelta(seconds=1))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.queue.sent == [("quantize", job_id)]
    run(world, "quantize")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("succeeded", 2)
