from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import pytest

import worker.collect
from store.blobs import BlobStore, LocalBlobs, make_blobs
from store.errors import Unavailable
from store.garbage import delete_unused
from store.naming import hold_blobs
from tests.store.blob_stores import age, everything, put
from tests.store.rows import checkpoint
from tests.worker.doubles import PREFIX
from tests.worker.world import World
from worker.collect import collect
from worker.jobs import run_jobs
from worker.services import Services


@pytest.fixture
def services(world: World, blobs_url: str) -> Services:
    return replace(world.services, blobs=make_blobs(blobs_url))


def with_grace(services: Services, seconds: float) -> Services:
    settings = services.settings.model_copy(update={"collect_grace_seconds": seconds})
    return replace(services, settings=settings)


def name_blob(services: Services, sha256: str, **values: Any) -> str:
    with services.database.write() as work:
        return work.checkpoints.add(checkpoint(blob_sha256=sha256, **values)).id


def old_blob(services: Services, data: bytes) -> str:
    sha256 = put(services.blobs, data)
    age(services.blobs, sha256, 7200)
    return sha256


def test_old_blobs_that_nobody_names_go(services: Services) -> None:
    named, _, young = old_blob(services, b"named"), old_blob(services, b"old"), put(services.blobs, b"young")
    name_blob(services, named)
    assert collect(services) == 1
    assert everything(services.blobs) == sorted([named, young])
    assert collect(services) == 0


def before(services: Services, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Acts after the collector has found a blob and before it takes the lock."""
    original = type(services.blobs).list_older

    def list_older(self: Any, seconds: float) -> Any:
        found = list(original(self, seconds))
        act()
        return iter(found)

    monkeypatch.setattr(type(services.blobs), "list_older", list_older)


def test_a_blob_that_was_written_again_meanwhile_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = old_blob(services, b"old")
    before(services, monkeypatch, lambda: put(services.blobs, b"old"))
    assert collect(services) == 0 and services.blobs.exists(sha256)


def test_a_blob_that_was_named_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    services = world.services
    sha256 = old_blob(services, b"old")
    unnamed = worker.collect._unnamed

    def name_afterwards(services: Services, grace: float) -> Iterator[str]:
        found = list(unnamed(services, grace))
        name_blob(services, sha256)
        return iter(found)

    monkeypatch.setattr("worker.collect._unnamed", name_afterwards)
    assert collect(services) == 0 and services.blobs.exists(sha256)


def test_more_blobs_than_one_query_asks_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.collect._BATCH", 3)
    named = {old_blob(world.services, f"named {n}".encode()) for n in range(4)}
    for sha256 in named:
        name_blob(world.services, sha256)
    for n in range(4):
        old_blob(world.services, f"old {n}".encode())
    assert collect(world.services) == 4
    assert everything(world.services.blobs) == sorted(named)


def test_abandoned_writes_go_too(world: World) -> None:
    assert isinstance(world.services.blobs, LocalBlobs)
    old = world.services.blobs.incoming / "old"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    collect(world.services)
    assert not old.exists()


def upload(services: Services, data: bytes) -> str:
    """As the API does: the bytes, then the blob's lock, a look at them, the row."""
    with services.blobs.writer() as writer:
        writer.write(data)
        sha256 = writer.commit().sha256
        with services.database.write() as work:
            hold_blobs(work, services.blobs, {sha256: writer.commit})
            work.checkpoints.add(checkpoint(blob_sha256=sha256))
    return sha256


def test_two_collectors_at_once_take_nothing_that_somebody_names(services: Services) -> None:
    """With no grace at all, while others add and drop rows of the very same bytes."""
    services = with_grace(services, 0)
    ended, failures = threading.Event(), list[BaseException]()

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def collecting() -> None:
        while not ended.is_set():
            collect(services)

    def uploading(seed: int) -> None:
        for turn in range(8):
            sha256 = upload(services, b"shared %d" % (turn % 2))
            with services.database.write() as work:
                work.blobs.lock(sha256)
                # The other one may have dropped its row meanwhile.
                assert services.blobs.exists(sha256) or not work.blobs.in_use([sha256])
                rows, _ = work.checkpoints.page("local", 200)
                if turn % 2 == seed % 2:
                    for row in rows:
                        if row.blob_sha256 == sha256:
                            work.checkpoints.delete(row.id)

    collectors = [threading.Thread(target=guarded, args=(collecting,)) for _ in range(2)]
    uploaders = [
        threading.Thread(target=guarded, args=(lambda n=n: uploading(n),))
        for n in range(2)  # type: ignore[misc]
    ]
    for thread in (*collectors, *uploaders):
        thread.start()
    for thread in uploaders:
        thread.join(60)
    ended.set()
    for thread in collectors:
        thread.join(60)
    assert not failures
    collect(services)
    with services.database.read() as work:
        named = {row.blob_sha256 for row in work.checkpoints.page("local", 200)[0]}
    assert everything(services.blobs) == sorted(named)


def all_named(world: World) -> list[str]:
    with world.services.database.read() as work:
        return sorted(work.blobs.in_use(everything(world.services.blobs)))


def test_a_lost_attempt_leaves_no_orphan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt stores its files and loses its lease; the second one makes others, and succeeds."""
    job_id = world.job()
    original = LocalBlobs.put_file
    lost: list[int] = []

    def lose_the_lease(self: LocalBlobs, file: BinaryIO) -> Any:
        ref = original(self, file)
        if not lost:
            lost.append(world.look(job_id).fence)
            world.change(lambda work: work.jobs.hand_back(job_id, lost[0], 0.0))
        return ref

    monkeypatch.setattr(LocalBlobs, "put_file", lose_the_lease)
    run_jobs(world.services, ("any",), entry=PREFIX + "quantize_anew")
    assert (world.look(job_id).status, world.look(job_id).attempt) == ("succeeded", 2)
    assert len(everything(world.services.blobs)) == len(all_named(world)) + 1
    assert collect(with_grace(world.services, 0)) == 1
    assert everything(world.services.blobs) == all_named(world)


def test_a_collector_that_is_quicker_than_the_end_of_a_job_does_no_harm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published and has no row yet is collected; the job stores it once more."""
    job_id = world.job()
    original = LocalBlobs.put_file
    collected: list[int] = []

    def collect_at_once(self: LocalBlobs, file: BinaryIO) -> Any:
        ref = original(self, file)
        if not collected:
            collected.append(collect(with_grace(world.services, 0)))
        return ref

    monkeypatch.setattr(LocalBlobs, "put_file", collect_at_once)
    run_jobs(world.services, ("any",), entry=PREFIX + "quantize")
    assert collected == [1] and world.look(job_id).status == "succeeded"
    (artifact,) = world.change(lambda work: work.artifacts.of_job(job_id))
    with world.services.blobs.open(artifact.blob_sha256) as file:
        assert file.read() == b"onnx of weights"


@pytest.mark.parametrize("second", ["alice", "bob"])
def test_a_blob_goes_with_its_last_row(services: Services, second: str) -> None:
    sha256 = put(services.blobs, b"shared")
    first_id = name_blob(services, sha256, owner="alice")
    second_id = name_blob(services, sha256, owner=second)
    for id, deleted in ((first_id, False), (second_id, True)):
        with services.database.write() as work:
            work.checkpoints.delete(id)
        assert delete_unused(services.database, services.blobs, sha256) is deleted
        assert services.blobs.exists(sha256) is not deleted


def test_a_store_that_is_away_costs_no_row(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: BlobStore, sha256: str) -> None:
        raise Unavailable("away")

    sha256 = old_blob(services, b"old")
    monkeypatch.setattr(type(services.blobs), "delete", away)
    with pytest.raises(Unavailable):
        collect(services)
    monkeypatch.undo()
    assert services.blobs.exists(sha256) and collect(services) == 1
