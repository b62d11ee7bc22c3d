from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from store.database import Database
from store.errors import InUse
from store.tables import utc_now
from tests.store.rows import checkpoint, dataset, job


def test_json_keeps_the_order_of_its_keys_and_times_their_zone(database: Database) -> None:
    network = {"z": 1, "a": {"y": 2, "b": 3}, "ü": "é"}
    with database.write() as work:
        id = work.checkpoints.add(checkpoint(network=network)).id
    with database.read() as work:
        row = work.checkpoints.get(id, "local")
    assert row is not None and list(row.network) == ["z", "a", "ü"] and list(row.network["a"]) == ["y", "b"]
    assert abs(row.created_at - utc_now()) < timedelta(seconds=60)


def test_rows_of_others_are_not_found(database: Database) -> None:
    with database.write() as work:
        id = work.checkpoints.add(checkpoint()).id
        assert work.checkpoints.get(id, "somebody else") is None
        assert work.checkpoints.get("ckpt_none", "local") is None


def test_a_fingerprint_exists_once(database: Database) -> None:
    def add(_: int) -> bool:
        try:
            with database.write() as work:
                work.checkpoints.add(checkpoint(fingerprint="same"))
        except IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    with database.read() as work:
        assert work.checkpoints.by_fingerprint("same") is not None
        assert work.checkpoints.by_fingerprint("other") is None


def test_an_upload_is_decided_once(database: Database) -> None:
    with database.write() as work:
        id = work.datasets.add(dataset(state="pending")).id
        assert work.datasets.mark_ready(id, {"images": 3})
        assert not work.datasets.mark_rejected(id, {"code": "invalid_dataset", "detail": ""})
        assert not work.datasets.mark_ready(id, {"images": 4})
    with database.read() as work:
        row = work.datasets.get(id, "local")
    assert row is not None and (row.state, row.inspection, row.error) == ("ready", {"images": 3}, None)


def test_pending_uploads_are_those_that_nobody_inspects(database: Database) -> None:
    past, future = utc_now() - timedelta(seconds=60), utc_now() + timedelta(seconds=60)
    with database.write() as work:
        id = work.datasets.add(dataset(state="pending")).id
        assert work.datasets.pending_since(future, past) == [id]
        assert work.datasets.pending_since(past, past) == [], "its message may be on its way"
        mark = work.datasets.begin_inspection(id, 3)
        assert mark is not None
        assert work.datasets.pending_since(future, past) == [], "it is being inspected"
        assert work.datasets.pending_since(past, future) == [id], "whoever inspects it gives no sign"
        alive = work.datasets.keep_inspecting(id, mark)
        assert alive is not None and alive > mark
        assert work.datasets.pending_since(future, alive) == []
        work.datasets.end_inspection(id, alive)
        assert work.datasets.pending_since(future, past) == [id]


@pytest.mark.parametrize(
    "meanwhile", ["sent again", "begun by another", "shown alive", "sent again and begun"]
)
def test_a_mark_holds_until_something_has_happened(database: Database, meanwhile: str) -> None:
    with database.write() as work:
        id = work.checkpoints.add(checkpoint(state="pending")).id
    with database.write() as work:
        mark = work.checkpoints.begin_inspection(id, 2)
        assert mark is not None
    with database.write() as work:
        if meanwhile.startswith("sent again"):
            held = work.checkpoints.hold(id, "local")
            assert held is not None
            work.checkpoints.renew(held)
        if meanwhile.endswith(("begun", "begun by another")):
            assert work.checkpoints.begin_inspection(id, 2)
        if meanwhile == "shown alive":
            assert work.checkpoints.keep_inspecting(id, mark)
    with database.write() as work:
        before = work.checkpoints.get(id)
        assert before is not None
        attempts, updated_at = before.attempts, before.updated_at
        assert work.checkpoints.keep_inspecting(id, mark) is None
        assert not work.checkpoints.mark_rejected(id, {"code": "blob_missing", "detail": ""}, mark)
        work.checkpoints.end_inspection(id, mark)
    with database.write() as work:
        row = work.checkpoints.get(id)
        assert row is not None and (row.state, row.attempts, row.updated_at) == (
            "pending",
            attempts,
            updated_at,
        )
        assert work.checkpoints.mark_rejected(id, {"code": "blob_missing", "detail": ""}, updated_at)


@pytest.mark.parametrize("rejected", [False, True])
def test_what_is_sent_again_is_inspected_as_if_it_were_new(database: Database, rejected: bool) -> None:
    with database.write() as work:
        id = work.checkpoints.add(checkpoint(state="pending", attempts=2)).id
        if rejected:
            assert work.checkpoints.mark_rejected(id, {"code": "worker_crashed", "detail": ""})
    with database.write() as work:
        held = work.checkpoints.hold(id, "local")
        assert held is not None
        work.checkpoints.renew(held)
    with database.write() as work:
        row = work.checkpoints.get(id)
        assert row is not None and (row.state, row.error, row.attempts) == ("pending", None, 0)
        assert work.checkpoints.mark_ready(id, {})


def test_what_is_ready_stays_so_when_it_is_sent_again(database: Database) -> None:
    with database.write() as work:
        before = work.checkpoints.add(checkpoint(attempts=1, inspection={"parameters": 3}))
        was = before.updated_at
        work.checkpoints.renew(before)
    with database.read() as work:
        row = work.checkpoints.get(before.id)
    assert row is not None and (row.state, row.attempts, row.inspection) == ("ready", 1, {"parameters": 3})
    assert row.updated_at > was, "retention counts from there"


def test_what_an_unfinished_job_uses_is_not_deleted(database: Database) -> None:
    with database.write() as work:
        ckpt, data = work.checkpoints.add(checkpoint()), work.datasets.add(dataset())
        id = work.jobs.add(job(ckpt.id, dataset_id=data.id)).id
        with pytest.raises(InUse) as refused:
            work.checkpoints.delete(ckpt.id)
        assert refused.value.code == "checkpoint_in_use"
        with pytest.raises(InUse) as refused:
            work.datasets.delete(data.id)
        assert refused.value.code == "dataset_in_use"
        work.jobs.request_cancel(id)
    with database.write() as work:
        assert work.checkpoints.delete(ckpt.id) and work.datasets.delete(data.id)
        assert not work.checkpoints.delete(ckpt.id)
    with database.read() as work:
        kept = work.jobs.get(id)
    assert kept is not None and kept.checkpoint_id is None and kept.dataset_id is None


def test_a_job_cannot_slip_in_beside_a_deletion(database: Database) -> None:
    """Whichever comes first wins: never a queued job without its checkpoint."""

    def insert(id: str) -> str | None:
        with database.write() as work:
            found = work.checkpoints.hold(id, "local")
            return None if found is None else work.jobs.add(job(id)).id

    def delete(id: str) -> bool:
        try:
            with database.write() as work:
                return work.checkpoints.delete(id)
        except InUse:
            return False

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            with database.write() as work:
                id = work.checkpoints.add(checkpoint()).id
            inserted, deleted = pool.submit(insert, id), pool.submit(delete, id)
            assert (inserted.result() is None) == deleted.result()


def test_no_job_is_forgotten_between_its_insertion_and_the_end_of_an_inspection(database: Database) -> None:
    """Either the job sees a ready checkpoint, or whoever made it ready sees the job."""

    def insert(id: str) -> str:
        with database.write() as work:
            found = work.checkpoints.hold(id, "local")
            assert found is not None
            work.jobs.add(job(id))
            return found.state

    def decide(id: str) -> int:
        with database.write() as work:
            assert work.checkpoints.mark_ready(id, {})
            return len(work.jobs.waiting_for(id))

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            with database.write() as work:
                id = work.checkpoints.add(checkpoint(state="pending")).id
            seen, waiting = pool.submit(insert, id), pool.submit(decide, id)
            assert (seen.result() == "ready") == (waiting.result() == 0)


def test_blobs_are_in_use_while_any_row_names_them(database: Database) -> None:
    with database.write() as work:
        id = work.checkpoints.add(checkpoint(blob_sha256="12" * 32)).id
        work.blobs.lock("12" * 32)
        assert work.blobs.in_use(["12" * 32, "34" * 32]) == {"12" * 32}
        work.checkpoints.delete(id)
        assert not work.blobs.in_use(["12" * 32])


def test_pages_are_newest_first_and_filtered(database: Database) -> None:
    with database.write() as work:
        ids = [work.checkpoints.add(checkpoint(name=f"n{n % 2}")).id for n in range(4)]
    with database.read() as work:
        rows, cursor = work.checkpoints.page("local", 3)
        rest, end = work.checkpoints.page("local", 3, cursor)
        assert [row.id for row in [*rows, *rest]] == sorted(ids, reverse=True) and end is None
        named, _ = work.checkpoints.page("local", 9, name="n1", state=None)
    assert {row.id for row in named} == {ids[1], ids[3]}
