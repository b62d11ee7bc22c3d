from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.beat import Scheduler

from store import queue
from tests.store.rows import claim_job
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker.__main__ import ROLES
from worker.app import ThreadedDelivery, ThreadedSweep, app, devices_served, messages_waiting
from worker.settings import WorkerSettings
from worker.tasks import quantize


def test_every_message_has_a_handler_and_a_queue() -> None:
    names = {value for name, value in vars(queue).items() if name.isupper() and str(value).startswith("zsq.")}
    queues = set(queue.QUEUES)
    assert quantize.name in names
    for name in names - queues:
        assert name in app.tasks
        assert app.amqp.router.route({}, name)["queue"].name == queue.ROUTES[name]


def test_a_control_worker_ends_when_told_also_while_the_broker_is_away(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "ZSQ_DATA_DIR": str(tmp_path),
        "ZSQ_BROKER_URL": "redis://127.0.0.1:1/0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker", "control"], env=environment, stdout=out, stderr=out
        )
        try:
            assert wait_for(lambda: b"celery.beat" in log.read_bytes(), 120), log.read_text()
            worker.terminate()
            assert worker.wait(60) is not None
        finally:
            worker.kill()


def test_a_message_is_not_delivered_twice_while_the_longest_job_runs() -> None:
    timeout = app.conf.broker_transport_options["visibility_timeout"]
    assert timeout > WorkerSettings().job_seconds


def test_messages_wait_in_their_own_queue_alone(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, here = queue.Queue(broker_url), Celery("test", broker=broker_url, set_as_current=False)
    monkeypatch.setattr(app, "connection_for_read", here.connection_for_read)
    before = {name: messages_waiting(name) for name in queue.QUEUES}
    sender.quantize("job_1")
    sender.quantize("job_2")
    sender.quantize("job_3", "gpu")
    sender.inspect_dataset("data_1")
    sender.close()
    more = {name: messages_waiting(name) - before[name] for name in queue.QUEUES}
    assert more == {queue.ANY_QUEUE: 2, queue.CPU_QUEUE: 0, queue.GPU_QUEUE: 1, queue.CONTROL_QUEUE: 1}


@pytest.mark.parametrize(
    ("role", "devices"), [("cpu", {"any", "cpu"}), ("gpu", {"any", "gpu"}), ("control", set())]
)
def test_workers_take_the_jobs_that_they_hear_of(
    role: str, devices: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = {name: app.amqp.queues[name] for name in ROLES[role].queues}
    monkeypatch.setattr(app.amqp.queues, "_consume_from", heard)
    assert set(devices_served()) == devices


def test_collecting_is_due_at_the_start_and_then_after_its_interval() -> None:
    collect = app.conf.beat_schedule["collect"]
    entry = Scheduler(app, lazy=True).Entry(**collect, name="collect", app=app)
    assert entry.is_due().is_due
    later = next(entry).is_due()
    assert not later.is_due and later.next > WorkerSettings().collect_seconds / 2


@pytest.mark.parametrize("role", list(ROLES))
def test_control_workers_sweep_beside_their_tasks(
    role: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the tasks do: nothing here consumes the queue."""
    heard = {name: app.amqp.queues[name] for name in ROLES[role].queues}
    monkeypatch.setattr(app.amqp.queues, "_consume_from", heard)
    monkeypatch.setattr("worker.app.services", lambda: world.services)
    monkeypatch.setattr("worker.app.messages_waiting", lambda queue: 0)
    job_id = world.job()
    world.change(lambda work: claim_job(work, job_id, "a worker that died", -1))
    assert ThreadedSweep in app.steps["worker"]
    worker = SimpleNamespace(app=app, steps=[])
    step = ThreadedSweep(worker)
    assert step.include(worker) == (role == "control")
    if role == "control":
        step.start(worker)
        assert wait_for(lambda: world.queue.sent == [("quantize", job_id)])
        step.stop(worker)
        assert not step.obj.running
    assert world.look(job_id).status == ("queued" if role == "control" else "running")


def test_control_workers_deliver_beside_their_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that does not answer holds up nothing else."""
    heard = {name: app.amqp.queues[name] for name in ROLES["control"].queues}
    monkeypatch.setattr(app.amqp.queues, "_consume_from", heard)
    monkeypatch.setattr("worker.app.services", lambda: world.services)
    job_id = world.job()
    world.alter(job_id, webhook_url="http://127.0.0.1:9/hook")
    world.change(lambda work: work.jobs.request_cancel(job_id))
    worker = SimpleNamespace(app=app, steps=[])
    step = ThreadedDelivery(worker)
    assert step.include(worker)
    step.start(worker)
    try:
        assert wait_for(lambda: world.change(lambda work: work.webhooks.of_job(job_id)[0].error))
    finally:
        step.stop(worker)
    assert not step.obj.running


def test_jobs_may_start_processes() -> None:
    assert app.conf.worker_pool == "threads"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device"):
        WorkerSettings(device=device)
