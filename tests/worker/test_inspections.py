from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from store.repositories import CheckpointRepository
from tests.store.blob_stores import damage
from tests.worker.doubles import PREFIX
from tests.worker.world import World
from worker import inspections
from worker.inspections import inspect, reject_never_inspected
from worker.sweep import Reminders, sweep
from worker.workspace import Workspace, workspace


def test_a_good_file_becomes_ready_and_wakes_its_jobs(world: World) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    job_id = world.job(checkpoint_id)
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.inspection) == ("ready", {"bytes": 5})
    assert world.queue.sent == [("quantize", job_id)]


def test_a_bad_file_is_rejected_with_its_jobs(world: World) -> None:
    dataset_id = world.dataset(state="pending")
    job_id = world.job(dataset_id=dataset_id)
    inspect(world.services, "dataset", dataset_id, entry=PREFIX + "refuse")
    row = world.change(lambda work: work.datasets.get(dataset_id))
    assert (row.state, row.error["code"]) == ("rejected", "empty_file")
    error = world.look(job_id).error
    assert error is not None and error["code"] == "dataset_rejected"


def test_a_file_that_crashes_its_reader_is_rejected(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "segfault")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.error["code"]) == ("rejected", "worker_crashed")


def test_a_fault_of_the_machine_does_not_reject_the_file(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "fill_the_disk")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 0), "it ended, so it does not count"


def test_a_broken_installation_does_not_reject_the_file(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    for entry in (PREFIX + "import_what_is_not_installed", "a_module_that_is_not_there:inspect"):
        inspect(world.services, "checkpoint", checkpoint_id, entry=entry)
        row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
        assert (row.state, row.attempts) == ("pending", 0)


def begin(world: World, checkpoint_id: str, times: int) -> None:
    """As workers do that are killed before the inspection ends."""
    for _ in range(times):
        assert world.change(lambda work: work.checkpoints.begin_inspection(checkpoint_id, 3))


def test_a_file_whose_every_inspection_took_its_worker_along_is_rejected(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    job_id = world.job(checkpoint_id)
    begin(world, checkpoint_id, 3)
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    reject_never_inspected(world.services)
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 3), "the third may still run; a fourth is not begun"
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(text("UPDATE checkpoint SET updated_at = '2020-01-01 00:00:00.000000'"))
    sweep(world.services, lambda queue: 1, Reminders(60))
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.error["code"]) == ("rejected", "inspection_failed")
    assert "3 times" in row.error["detail"]
    error = world.look(job_id).error
    assert error is not None and error["code"] == "checkpoint_rejected"


def test_two_lost_workers_are_no_reason_to_refuse_a_third(world: World) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    begin(world, checkpoint_id, 2)
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    assert world.change(lambda work: work.checkpoints.get(checkpoint_id)).state == "ready"


def test_a_file_whose_bytes_are_gone_is_rejected(world: World) -> None:
    checkpoint_id = world.checkpoint(b"gone", state="pending")
    world.services.blobs.delete(world.blob(b"gone"))
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.error["code"]) == ("rejected", "blob_missing")


def test_a_file_whose_bytes_are_damaged_is_rejected_in_the_end_and_may_be_sent_again(world: World) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    job_id = world.job(checkpoint_id)
    damage(world.services.blobs, hashlib.sha256(b"12345").hexdigest())
    found = []
    for _ in range(4):
        inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
        row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
        found.append((row.state, row.attempts))
    assert found == [("pending", 1), ("pending", 2), ("rejected", 3), ("rejected", 3)]
    assert (row.error["code"], row.error["retryable"]) == ("blob_corrupt", False)
    assert "Upload the file again" in row.error["detail"]
    error = world.look(job_id).error
    assert error is not None and error["code"] == "checkpoint_rejected"

    world.blob(b"12345")
    world.change(lambda work: work.checkpoints.renew(work.checkpoints.hold(checkpoint_id, "local")))
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    assert world.change(lambda work: work.checkpoints.get(checkpoint_id)).state == "ready"


def test_a_file_that_came_damaged_once_is_read_again(world: World) -> None:
    dataset_id = world.dataset(b"12345", state="pending")
    damage(world.services.blobs, hashlib.sha256(b"12345").hexdigest())
    inspect(world.services, "dataset", dataset_id, entry=PREFIX + "inspect")
    world.blob(b"12345")
    inspect(world.services, "dataset", dataset_id, entry=PREFIX + "inspect")
    assert world.change(lambda work: work.datasets.get(dataset_id)).state == "ready"


def test_lost_workers_count_anew_when_a_damaged_file_is_sent_again(world: World) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    damage(world.services.blobs, hashlib.sha256(b"12345").hexdigest())
    for _ in range(2):
        inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    world.blob(b"12345")
    world.change(lambda work: work.checkpoints.renew(work.checkpoints.hold(checkpoint_id, "local")))
    world.change(lambda work: work.checkpoints.begin_inspection(checkpoint_id, 3))  # and its worker is lost
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    assert world.change(lambda work: work.checkpoints.get(checkpoint_id)).state == "ready"


def send_again(world: World, checkpoint_id: str, data: bytes = b"12345") -> None:
    world.blob(data)
    world.change(lambda work: work.checkpoints.renew(work.checkpoints.hold(checkpoint_id, "local")))


@pytest.fixture
def before_its_verdict(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens once each, when an inspection has seen what it sees and has not said so yet."""
    happen: list[Callable[[], None]] = []

    @contextmanager
    def interrupted(parent: Path, name: str) -> Iterator[Workspace]:
        try:
            with workspace(parent, name) as space:
                yield space
        finally:
            while happen:
                happen.pop()()

    monkeypatch.setattr(inspections, "workspace", interrupted)
    return happen


@pytest.mark.parametrize("begun_anew", [0, 3])
@pytest.mark.parametrize("fate", ["damaged", "gone"])
def test_what_was_sent_again_is_not_rejected_for_the_bytes_there_were(
    world: World, before_its_verdict: list[Callable[[], None]], fate: str, begun_anew: int
) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    job_id = world.job(checkpoint_id)
    sha256 = hashlib.sha256(b"12345").hexdigest()
    damage(world.services.blobs, sha256) if fate == "damaged" else world.services.blobs.delete(sha256)
    begin(world, checkpoint_id, 2)
    before_its_verdict.append(lambda: begin(world, checkpoint_id, begun_anew))
    before_its_verdict.append(lambda: send_again(world, checkpoint_id))
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", begun_anew)
    assert world.look(job_id).status == "queued"
    if not begun_anew:
        inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "inspect")
        assert world.change(lambda work: work.checkpoints.get(checkpoint_id)).state == "ready"


def test_what_was_sent_again_is_not_rejected_for_workers_lost_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    begin(world, checkpoint_id, 3)
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(text("UPDATE checkpoint SET updated_at = '2020-01-01 00:00:00.000000'"))
    find = CheckpointRepository.never_inspected

    def find_and_send_again(*args: Any) -> list[tuple[str, datetime]]:
        found = find(*args)
        send_again(world, checkpoint_id)
        return found

    monkeypatch.setattr(CheckpointRepository, "never_inspected", find_and_send_again)
    reject_never_inspected(world.services)
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 0)


def test_what_the_content_is_refused_for_holds_when_it_is_sent_again(
    world: World, before_its_verdict: list[Callable[[], None]]
) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    before_its_verdict.append(lambda: send_again(world, checkpoint_id))
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "refuse")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.error["code"]) == ("rejected", "empty_file")


def test_an_inspection_from_before_takes_nothing_off_the_new_count(
    world: World, before_its_verdict: list[Callable[[], None]]
) -> None:
    checkpoint_id = world.checkpoint(b"12345", state="pending")
    before_its_verdict.append(lambda: begin(world, checkpoint_id, 1))
    before_its_verdict.append(lambda: send_again(world, checkpoint_id))
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "fill_the_disk")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 1)


def test_a_stopping_worker_leaves_the_file_to_another(world: World) -> None:
    checkpoint_id = world.checkpoint(state="pending")
    world.services.stopping.set()
    inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "ignore_everything")
    row = world.change(lambda work: work.checkpoints.get(checkpoint_id))
    assert (row.state, row.attempts) == ("pending", 0)
    assert world.queue.sent == [("inspect_checkpoint", checkpoint_id)]


def test_what_is_decided_or_deleted_is_left_alone(world: World) -> None:
    ready = world.checkpoint()
    inspect(world.services, "checkpoint", ready, entry=PREFIX + "refuse")
    inspect(world.services, "checkpoint", "ckpt_none", entry=PREFIX + "refuse")
    assert world.change(lambda work: work.checkpoints.get(ready)).state == "ready"


def test_two_looks_at_one_file_do_not_share_a_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def remember(parent: Path, name: str) -> AbstractContextManager[Workspace]:
        names.append(name)
        return workspace(parent, name)

    monkeypatch.setattr(inspections, "workspace", remember)
    checkpoint_id = world.checkpoint(state="pending")
    world.services.stopping.set()
    for _ in range(2):
        inspect(world.services, "checkpoint", checkpoint_id, entry=PREFIX + "ignore_everything")
    assert len(set(names)) == 2
