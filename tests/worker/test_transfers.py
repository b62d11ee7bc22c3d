from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.blobs import LocalBlobs, make_blobs
from store.errors import BlobMissing, Unavailable
from tests.store.blob_stores import everything
from tests.worker.hanging import Hanging, left_behind
from tests.worker.waiting import wait_for
from worker import transfers
from worker.abandonable import AbandonableCalls
from worker.outcomes import Stop
from worker.transfers import Guarded, Interrupted, Transfers, answers


def wanted() -> Stop | None:
    return None


@pytest.fixture
def hangs() -> Iterator[threading.Event]:
    """Calls that wait for it come back after the test."""
    event = threading.Event()
    yield event
    event.set()
    assert wait_for(lambda: not left_behind())


def test_what_comes_back_is_returned_or_raised() -> None:
    assert Transfers(lambda: Stop.LOST, 0.0).run(lambda go_on: go_on()) is True, "nobody had to wait for it"
    with pytest.raises(BlobMissing):
        Transfers(wanted, 60).run(lambda go_on: (_ for _ in ()).throw(BlobMissing("gone")))


def test_all_calls_together_have_the_time_and_one_may_have_less(hangs: threading.Event) -> None:
    both = Transfers(wanted, 0.3)
    for _ in range(2):
        with pytest.raises(Unavailable):
            both.run(lambda go_on: hangs.wait(60))
    with pytest.raises(Unavailable):
        Transfers(wanted, 60).run(lambda go_on: hangs.wait(60), at_most=0.1)


def test_no_failure_that_is_borne_hides_that_it_was_interrupted(hangs: threading.Event) -> None:
    with pytest.raises(Interrupted) as raised:
        Transfers(lambda: Stop.CANCELED, 60).run(lambda go_on: hangs.wait(60))
    assert raised.value.reason is Stop.CANCELED and not isinstance(raised.value, Exception)


def test_what_is_left_behind_hears_of_it() -> None:
    told = threading.Event()

    def call(go_on: object) -> None:
        assert callable(go_on) and wait_for(lambda: not go_on())
        told.set()

    with pytest.raises(Interrupted):
        Transfers(lambda: Stop.LOST, 60).run(call)
    assert told.wait(30)


def test_no_more_than_a_number_are_left_behind(
    hangs: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_CALLS", AbandonableCalls("blob store", 1))
    with pytest.raises(Interrupted):
        Transfers(lambda: Stop.LOST, 60).run(lambda go_on: hangs.wait(60))
    with pytest.raises(Unavailable, match="hangs"):
        Transfers(wanted, 60).run(lambda go_on: True)


def test_a_file_that_is_closed_ends_what_was_left_behind(blobs_url: str, tmp_path: Path) -> None:
    """Of a large file neither a part nor an open upload is left."""
    blobs, begun = make_blobs(blobs_url), threading.Event()
    path = tmp_path / "large"
    path.write_bytes(bytes(40 << 20))
    closed = threading.Event()

    class Slow(type(path.open("rb", buffering=0))):  # type: ignore[misc]
        """Its first 9 MiB come at once."""

        def readinto(self, target: bytearray) -> int:
            if not self.closed and self.tell() >= 9 << 20:
                begun.set()
                assert closed.wait(60)
            return int(super().readinto(target))

        def read(self, size: int = -1) -> bytes:
            target = bytearray(size)
            return bytes(target[: self.readinto(target)])

    with pytest.raises(Interrupted), Slow(str(path), "rb") as file:
        watch = Transfers(lambda: Stop.CANCELED if begun.is_set() else None, 60)
        try:
            Guarded(blobs, watch).put_file(file)
        finally:
            file.close()
            closed.set()
    assert wait_for(lambda: not left_behind())
    assert everything(blobs) == []


def test_the_stores_own_answers_pass(blobs_url: str, tmp_path: Path) -> None:
    blobs = make_blobs(blobs_url)
    guarded = Guarded(blobs, Transfers(wanted, 60))
    (tmp_path / "a").write_bytes(b"a")
    sha256 = hashlib.sha256(b"a").hexdigest()
    assert not guarded.exists(sha256)
    with (tmp_path / "a").open("rb") as file:
        assert guarded.put_file(file).sha256 == sha256
    assert guarded.exists(sha256) and answers(blobs, threading.Event())


@pytest.mark.parametrize("stop", [True, False], ids=["worker is to stop", "too long"])
def test_a_store_that_hangs_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: bool
) -> None:
    monkeypatch.setattr(transfers, "LOOK_SECONDS", 60 if stop else 0.2)
    blobs, stopping = LocalBlobs(tmp_path / "blobs"), threading.Event()
    hanging = Hanging(monkeypatch, LocalBlobs, "ping")
    if stop:
        stopping.set()
    assert not answers(blobs, stopping)
    hanging.release()
