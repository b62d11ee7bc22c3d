from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from store.blobs import LocalBlobs
from store.blobs.s3 import S3Blobs
from store.errors import Unavailable
from tests.http_server import Handler, listening
from tests.worker.doubles import PREFIX
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker import transfers
from worker.abandonable import AbandonableCalls
from worker.fetching import Inputs
from worker.inspections import inspect
from worker.jobs import run_jobs
from worker.outcomes import Stop
from worker.transfers import Interrupted
from worker.workspace import workspace

WEIGHTS = b"weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@contextmanager
def hanging(world: World) -> Iterator[None]:
    """Whoever reads the weights waits, as on a mount that is lost."""
    blobs = world.services.blobs
    assert isinstance(blobs, LocalBlobs)
    place = blobs.place(SHA256)
    place.unlink()
    os.mkfifo(place)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # whoever still reads, reads to its end now
            os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))


def run(world: World) -> None:
    run_jobs(world.services, ("any",), entry=PREFIX + "quantize")


@contextmanager
def fetching_job(world: World) -> Iterator[str]:
    """A job that another thread fetches inputs for, in vain; after the block its attempt has ended."""
    job_id = world.job(world.checkpoint(WEIGHTS))
    with hanging(world):
        thread = threading.Thread(target=run, args=(world,), daemon=True)
        thread.start()
        assert wait_for(lambda: world.look(job_id).phase == "loading")
        yield job_id
        thread.join(30)
        assert not thread.is_alive()
    assert not [path for path in world.services.workspaces.iterdir() if path.name.startswith(job_id)]


def test_a_cancel_does_not_wait_for_inputs(world: World) -> None:
    with fetching_job(world) as job_id:
        world.change(lambda work: work.jobs.request_cancel(job_id))
    assert world.look(job_id).status == "canceled"


def test_a_worker_that_is_to_stop_does_not_wait_for_inputs(world: World) -> None:
    with fetching_job(world) as job_id:
        world.services.stopping.set()
    job = world.look(job_id)
    assert (job.status, job.attempt, job.handbacks) == ("queued", 1, 1)
    assert world.queue.sent == [("quantize", job_id)]


def test_inputs_that_take_too_long_are_the_machines_fault(world: World) -> None:
    world.configure(fetch_seconds=0.3)
    with fetching_job(world) as job_id:
        assert wait_for(lambda: world.look(job_id).status == "queued")
    job = world.look(job_id)
    assert (job.attempt, job.handbacks) == (1, 1) and job.not_before is not None
    told = world.change(lambda work: work.jobs.events(job_id))[-1].data
    assert told["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("stop", [True, False], ids=["worker is to stop", "too long"])
def test_an_upload_that_does_not_come_stays_pending(world: World, stop: bool) -> None:
    world.configure(fetch_seconds=60 if stop else 0.3)
    checkpoint_id = world.checkpoint(WEIGHTS, state="pending")
    with hanging(world):
        look = (world.services, "checkpoint", checkpoint_id)
        thread = threading.Thread(
            target=inspect, args=look, kwargs={"entry": PREFIX + "inspect"}, daemon=True
        )
        thread.start()
        if stop:
            assert wait_for(lambda: list(world.services.workspaces.glob("*/input")))
            world.services.stopping.set()
        thread.join(30)
        assert not thread.is_alive()
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 0)
    assert world.queue.sent == ([("inspect_checkpoint", checkpoint_id)] if stop else [])


def test_a_byte_now_and_then_does_not_hold_a_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    came, over = threading.Event(), threading.Event()

    class Trickling(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(1 << 20))
            self.end_headers()
            while not over.is_set():
                self.wfile.write(b"x")
                came.set()
                time.sleep(0.02)

    with listening(Trickling) as url, workspace(world.services.workspaces, "job_0-1") as space:
        services = replace(world.services, blobs=S3Blobs("bucket", endpoint=url))
        inputs = Inputs(services, space, lambda: Stop.CANCELED if came.is_set() else None)
        with pytest.raises(Interrupted) as raised:
            inputs.bring(SHA256)
        over.set()
    assert raised.value.reason is Stop.CANCELED


def test_no_more_than_a_number_are_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_CALLS", AbandonableCalls("test", 1))
    world.checkpoint(WEIGHTS)
    with hanging(world), workspace(world.services.workspaces, "job_0-1") as space:
        with pytest.raises(Interrupted):
            Inputs(world.services, space, lambda: Stop.LOST).bring(SHA256)
        with pytest.raises(Unavailable):
            Inputs(world.services, space, lambda: None).bring(SHA256)
