"""What one attempt keeps is what the next goes on from, and nothing of it is left at the end."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.methods.save_point import FLOOR_SECONDS
from store.blobs import make_blobs
from store.blobs.local import LocalBlobWriter
from store.job_claims import Claim
from store.job_repository import Beat
from tests.store.blob_stores import after_commits, damage, deleted_once
from tests.store.rows import claim_job
from tests.worker.test_jobs import run, running
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker import resume
from worker.lease import Lease
from worker.resume import MAX_COMPLAINTS, Keeper
from worker.sweep import Reminders, sweep


def content(world: World, job_id: str) -> bytes:
    sha256 = world.look(job_id).resume_sha256
    assert sha256 is not None
    with world.services.blobs.open(sha256) as file:
        return file.read()


def blobs(world: World) -> set[str]:
    return {path.name for path in world.services.blobs.root.glob("??/??/*")}  # type: ignore[attr-defined]


def claimed(world: World, job_id: str) -> Claim:
    claim = world.change(lambda work: claim_job(work, job_id, "w", 30))
    assert isinstance(claim, Claim)
    return claim


def ours() -> bool:
    """The job has not been taken away."""
    return True


def test_a_run_that_is_handed_back_saves_and_the_next_attempt_goes_on(world: World) -> None:
    world.configure(shutdown_grace_seconds=300)
    job_id = world.job()
    before = blobs(world)
    with running(world, job_id, "save_when_told"):
        world.services.stopping.set()
    job = world.look(job_id)
    assert (job.status, job.handbacks) == ("queued", 1)
    step = int(content(world, job_id))
    assert step > 0
    world.services.stopping.clear()
    run(world, "say_where_it_began")
    job = world.look(job_id)
    assert (job.status, job.report, job.resume_sha256) == ("succeeded", {"resumed": step}, None)
    assert blobs(world) == before, "what was kept is gone with the job"


def test_a_run_that_is_killed_while_it_saves_goes_on_from_the_save_before(world: World) -> None:
    job_id = world.job()
    run(world, "die_while_saving")
    job = world.look(job_id)
    assert (job.status, job.handbacks, content(world, job_id)) == ("queued", 0, b"8")
    world.alter(job_id, not_before=None)
    run(world, "say_where_it_began")
    assert world.look(job_id).report == {"resumed": 8}


def test_what_cannot_be_found_any_more_means_to_start_anew(world: World) -> None:
    job_id = world.job()
    world.alter(job_id, resume_sha256="ab" * 32)
    run(world, "say_where_it_began")
    job = world.look(job_id)
    assert (job.status, job.report) == ("succeeded", {"resumed": 0})


def test_what_has_been_damaged_means_to_start_anew_too(world: World) -> None:
    job_id, kept = world.job(), world.blob(b"8")
    world.alter(job_id, resume_sha256=kept)
    damage(world.services.blobs, kept)
    run(world, "say_where_it_began")
    job = world.look(job_id)
    assert (job.status, job.report) == ("succeeded", {"resumed": 0})


def test_a_run_that_ends_while_it_is_handed_back_is_not_run_again(world: World) -> None:
    world.configure(shutdown_grace_seconds=300)
    job_id = world.job()
    with running(world, job_id, "finish_though_told"):
        world.services.stopping.set()
    assert world.look(job_id).status == "succeeded"


def test_a_failed_run_leaves_nothing_that_it_kept(world: World) -> None:
    job_id = world.job()
    before = blobs(world)
    run(world, "diverge_after_saving")
    job = world.look(job_id)
    assert (job.status, job.resume_sha256) == ("failed", None)
    assert blobs(world) == before


def test_the_sweep_tidies_up_after_jobs_that_others_ended(world: World) -> None:
    sha256 = world.blob(b"kept")
    job_id, other = world.job(), world.job()
    for id in (job_id, other):
        world.alter(id, resume_sha256=sha256)
    world.change(lambda work: work.jobs.request_cancel(job_id))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert world.look(job_id).resume_sha256 is None
    assert world.services.blobs.exists(sha256), "the other job still needs it"
    world.change(lambda work: work.jobs.request_cancel(other))
    sweep(world.services, lambda queue: 0, Reminders(60))
    assert not world.services.blobs.exists(sha256)


def test_a_file_that_the_child_must_not_hand_over_is_not_kept(world: World) -> None:
    job_id = world.job()
    before = blobs(world)
    run(world, "keep_what_is_not_its_own")
    assert world.look(job_id).status == "succeeded", "the run itself goes on"
    assert blobs(world) == before


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{scratch}/../secret", "{scratch}/..", "{scratch}/none", "\0", ""]
)
def test_only_plain_files_in_scratch_itself_are_kept(world: World, tmp_path: Path, path: str) -> None:
    job_id = world.job()
    before = blobs(world)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "secret").write_text("secret")
    with Keeper(world.services, claimed(world, job_id), scratch, ours) as keeper:
        keeper.offer(path.format(scratch=scratch))
    assert world.look(job_id).resume_sha256 is None
    assert blobs(world) == before and (tmp_path / "secret").exists()


def test_a_child_cannot_use_up_its_workers_descriptors(world: World, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    claim = claimed(world, world.job())
    before = len(list(Path("/dev/fd").iterdir()))
    with Keeper(world.services, claim, tmp_path, ours) as keeper:
        for number in range(1, 51):
            keeper.offer(tmp_path / "folder")
            assert wait_for(lambda number=number: keeper._complaints == number, 60)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_newest_save_wins_and_nobody_waits_for_a_slow_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing, may_go_on = threading.Event(), threading.Event()
    original = LocalBlobWriter.sync

    def slow(self: Any) -> None:
        storing.set()
        assert may_go_on.wait(60)
        original(self)

    job_id = world.job()
    before = blobs(world)
    monkeypatch.setattr(LocalBlobWriter, "sync", slow)
    files = [tmp_path / f"kept-{n}" for n in range(3)]
    with Keeper(world.services, claimed(world, job_id), tmp_path, ours) as keeper:
        for n, file in enumerate(files):
            file.write_text(str(n))
            keeper.offer(file)
            assert storing.wait(60)
        assert not files[1].exists(), "skipped, since a newer one came before its turn"
        may_go_on.set()
    assert content(world, job_id) == b"2"
    assert len(blobs(world) - before) == 1, "the first was replaced"
    assert not [file for file in files if file.exists()]


def test_who_keeps_without_end_has_the_last_stored_and_few_of_the_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, before = world.job(), blobs(world)
    monkeypatch.setattr(resume, "LEAST_SECONDS", 1000.0)
    files = [tmp_path / f"kept-{n}" for n in range(20)]
    with Keeper(world.services, claimed(world, job_id), tmp_path, ours) as keeper:
        for n, file in enumerate(files):
            file.write_text(str(n))
            keeper.offer(file)
            assert n or wait_for(lambda: world.look(job_id).resume_sha256)
        assert not wait_for(lambda: not files[-1].exists(), 0.3)
        assert content(world, job_id) == b"0" and not any(file.exists() for file in files[:-1])
    assert content(world, job_id) == b"19" and len(blobs(world) - before) == 1


def test_the_least_time_between_two_is_less_than_core_leaves() -> None:
    assert resume.LEAST_SECONDS < FLOOR_SECONDS


@pytest.mark.parametrize("how", ["discarded", "taken away"])
def test_what_has_become_useless_is_not_stored_to_its_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    storing, may_go_on, taken_away = threading.Event(), threading.Event(), threading.Event()
    original, written = LocalBlobWriter.write, list[int]()

    def slow(self: LocalBlobWriter, data: bytes) -> None:
        storing.set()
        assert may_go_on.wait(60)
        written.append(len(data))
        original(self, data)

    job_id = world.job()
    before = blobs(world)
    monkeypatch.setattr(LocalBlobWriter, "write", slow)
    (tmp_path / "kept-1").write_bytes(bytes(8 << 20))
    claim = claimed(world, job_id)
    with Keeper(world.services, claim, tmp_path, lambda: not taken_away.is_set()) as keeper:
        keeper.offer(tmp_path / "kept-1")
        assert storing.wait(60)
        if how == "discarded":
            keeper.discard()
        else:
            taken_away.set()
        may_go_on.set()
    assert len(written) == 1, "of eight pieces"
    assert world.look(job_id).resume_sha256 is None and blobs(world) == before
    assert not list(world.services.blobs.incoming.iterdir()) and not (tmp_path / "kept-1").exists()  # type: ignore[attr-defined]


def test_a_cancel_does_not_wait_for_a_slow_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = world.job()
    heard, written = threading.Event(), list[int]()
    take, write = Lease._take, LocalBlobWriter.write

    def hearing(self: Lease, beat: Beat) -> None:
        take(self, beat)
        if self.cancel_requested:
            heard.set()

    def slow(self: LocalBlobWriter, data: bytes) -> None:
        """Its owner cancels the job while the first piece is on its way."""
        if not written:
            world.change(lambda work: work.jobs.request_cancel(job_id))
        assert heard.wait(60)
        written.append(len(data))
        write(self, data)

    monkeypatch.setattr(Lease, "_take", hearing)
    monkeypatch.setattr(LocalBlobWriter, "write", slow)
    run(world, "keep_much_and_go_on")
    job = world.look(job_id)
    assert (job.status, job.resume_sha256) == ("canceled", None)
    assert len(written) == 1, "of eight pieces"


def test_a_worker_that_lost_its_job_stores_nothing(world: World, tmp_path: Path) -> None:
    job_id = world.job()
    stale = claimed(world, job_id)
    world.change(lambda work: work.jobs.hand_back(job_id, stale.fence, 0.0))
    before = blobs(world)
    (tmp_path / "kept-1").write_text("stale")
    with Keeper(world.services, stale, tmp_path, ours) as keeper:
        keeper.offer(tmp_path / "kept-1")
    assert world.look(job_id).resume_sha256 is None and blobs(world) == before


@pytest.fixture
def stored(world: World, blobs_url: str) -> World:
    """A world whose blobs are in a folder, and again in S3."""
    world.services = replace(world.services, blobs=make_blobs(blobs_url))
    return world


def test_nobody_waits_while_a_slow_store_takes_the_bytes(
    stored: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither heartbeats of the job nor, on SQLite, any other write."""
    job_id = stored.job()
    claim = claimed(stored, job_id)

    def beat(sha256: str) -> None:
        stored.change(lambda work: work.jobs.heartbeat(job_id, claim.fence, 30))

    committed = after_commits(monkeypatch, stored.services.blobs, beat)
    (tmp_path / "kept-1").write_text("1")
    with Keeper(stored.services, claim, tmp_path, ours) as keeper:
        keeper.offer(tmp_path / "kept-1")
    assert len(committed) == 1 and content(stored, job_id) == b"1"


def test_what_is_deleted_before_the_job_names_it_is_kept_again(
    stored: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = stored.job()
    claim = claimed(stored, job_id)
    deleted = deleted_once(monkeypatch, stored.services.blobs, stored.services.database)
    (tmp_path / "kept-1").write_text("1")
    with Keeper(stored.services, claim, tmp_path, ours) as keeper:
        keeper.offer(tmp_path / "kept-1")
    assert len(deleted) == 1 and content(stored, job_id) == b"1"


def test_who_names_wrong_files_without_end_does_not_fill_the_log(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Keeper(world.services, claimed(world, world.job()), tmp_path, ours) as keeper:
        for number in range(3 * MAX_COMPLAINTS):
            keeper._complain(f"wrong-{number}" * 1000)
    assert len(caplog.messages) == MAX_COMPLAINTS + 1
    assert max(map(len, caplog.messages)) < 400
