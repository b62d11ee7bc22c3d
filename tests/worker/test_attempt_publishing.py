"""A blob store that hangs while results are published holds neither the job nor its worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from store.blobs import LocalBlobs
from store.blobs.local import LocalBlobWriter
from tests.store.rows import claim_job
from tests.worker.doubles import PREFIX
from tests.worker.hanging import Hanging
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker import transfers
from worker.collect import collect
from worker.jobs import run_jobs

# Where a lost mount may be met: when the file is opened, when its bytes go out.
PLACES = [(LocalBlobs, "put_file"), (LocalBlobWriter, "write"), (LocalBlobWriter, "sync")]


def run(world: World) -> None:
    run_jobs(world.services, ("any",), entry=PREFIX + "quantize")


@pytest.fixture(params=PLACES, ids=[name for _, name in PLACES])
def hanging(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, job_id: str
) -> Iterator[Hanging]:
    """From when the job's checkpoint has been stored."""
    hanging = Hanging(monkeypatch, *request.param)
    yield hanging
    hanging.released.set()


@pytest.fixture
def job_id(world: World) -> str:
    return world.job()


@contextmanager
def publishing(world: World, hanging: Hanging) -> Iterator[None]:
    """Another thread publishes, in vain; after the block that has ended, though the store still hangs."""
    thread = threading.Thread(target=run, args=(world,), daemon=True)
    thread.start()
    assert hanging.begun.wait(60)
    yield
    thread.join(30)
    assert not thread.is_alive() and not hanging.released.is_set()
    assert not list(world.services.workspaces.iterdir())


def nothing_came_of_it(world: World, hanging: Hanging, job_id: str) -> None:
    """Of the call that was left behind, once it has come back."""
    before = world.look(job_id)
    hanging.release()
    after = world.look(job_id)
    assert (after.status, after.updated_at) == (before.status, before.updated_at)
    assert not world.change(lambda work: work.artifacts.of_job(job_id))
    world.configure(collect_grace_seconds=0)
    collect(world.services)
    named = world.change(lambda work: work.checkpoints.get(before.checkpoint_id)).blob_sha256
    assert [sha256 for sha256, _ in world.services.blobs.list_older(0)] == [named]
    assert not list(world.services.blobs.incoming.iterdir())  # type: ignore[attr-defined]


def test_a_cancel_does_not_wait(hanging: Hanging, world: World, job_id: str) -> None:
    with publishing(world, hanging):
        world.change(lambda work: work.jobs.request_cancel(job_id))
    assert world.look(job_id).status == "canceled"
    nothing_came_of_it(world, hanging, job_id)


def test_a_worker_that_is_to_stop_hands_the_job_back(hanging: Hanging, world: World, job_id: str) -> None:
    with publishing(world, hanging):
        world.services.stopping.set()
    job = world.look(job_id)
    assert (job.status, job.attempt, job.handbacks) == ("queued", 1, 1)
    assert world.queue.sent == [("quantize", job_id)]
    nothing_came_of_it(world, hanging, job_id)


def test_who_lost_the_job_writes_nothing(hanging: Hanging, world: World, job_id: str) -> None:
    with publishing(world, hanging):
        fence = world.look(job_id).fence
        world.change(lambda work: work.jobs.hand_back(job_id, fence, 0.0))
        world.change(lambda work: claim_job(work, job_id, "another", 30))
    assert (world.look(job_id).status, world.look(job_id).worker) == ("running", "another")


def test_what_takes_too_long_is_the_machines_fault(
    hanging: Hanging, world: World, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.patience.PAUSES", (0.0,) * 4)
    world.configure(fetch_seconds=1)
    with publishing(world, hanging):
        assert wait_for(lambda: world.look(job_id).status == "queued")
        world.services.stopping.set()
    job = world.look(job_id)
    assert (job.attempt, job.handbacks) == (1, 1) and job.not_before is not None
    told = world.change(lambda work: work.jobs.events(job_id))[-1].data
    assert told["error"]["code"] == "service_unavailable" and told["handed_back"] is True
    nothing_came_of_it(world, hanging, job_id)


def test_results_are_still_published_by_a_worker_that_is_to_stop(
    hanging: Hanging, world: World, job_id: str
) -> None:
    """A store that is slow has the time of grace."""
    world.configure(shutdown_grace_seconds=300)
    thread = threading.Thread(target=run, args=(world,), daemon=True)
    thread.start()
    assert hanging.begun.wait(60)
    world.services.stopping.set()
    assert not wait_for(lambda: not thread.is_alive(), 0.5)
    hanging.release()
    thread.join(60)
    assert world.look(job_id).status == "succeeded"


def test_a_store_that_hangs_does_not_keep_a_transaction_open(
    world: World, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody would wait for it on SQLite; and what comes of it late must not be written."""
    monkeypatch.setattr("worker.patience.PAUSES", (0.0,) * 4)
    monkeypatch.setattr(transfers, "LOOK_SECONDS", 0.2)
    hanging = Hanging(monkeypatch, LocalBlobs, "exists")
    with publishing(world, hanging):
        assert wait_for(lambda: world.look(job_id).status == "queued")
        world.services.stopping.set()
    assert hanging.calls == 5 and world.look(job_id).handbacks == 1
    nothing_came_of_it(world, hanging, job_id)
