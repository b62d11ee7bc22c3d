from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import event

from store.database import Database
from store.tables import PartialUpload, utc_now
from tests.store import rows


def partial_upload(id: str, **values: Any) -> PartialUpload:
    expires = utc_now() + timedelta(hours=1)
    defaults = {"owner": "ann", "kind": "checkpoint", "fields": {}, "length": 300, "expires_at": expires}
    return PartialUpload(id=id, **{**defaults, **values})


def test_bytes_are_those_of_the_owners_uploads_finished_and_begun(database: Database) -> None:
    with database.write() as work:
        assert work.usage.stored_bytes("ann") == 0
        work.checkpoints.add(rows.checkpoint(owner="ann", bytes=2**40))
        work.datasets.add(rows.dataset(owner="ann", bytes=20))
        work.checkpoints.add(rows.checkpoint(owner="bob", bytes=7000))
        work.partial_uploads.add(partial_upload("up_1"))
        work.partial_uploads.add(partial_upload("up_2", resource_id="ckpt_1"))
        work.partial_uploads.add(partial_upload("up_3", expires_at=utc_now() - timedelta(seconds=1)))
        assert work.usage.stored_bytes("ann") == 2**40 + 20 + 300, "what became a checkpoint counts as one"


def test_begun_uploads_are_those_that_may_still_become_something(database: Database) -> None:
    with database.write() as work:
        work.partial_uploads.add(partial_upload("up_1"))
        work.partial_uploads.add(partial_upload("up_2", resource_id="ckpt_1"))
        work.partial_uploads.add(partial_upload("up_3", expires_at=utc_now() - timedelta(seconds=1)))
        work.partial_uploads.add(partial_upload("up_4", owner="bob"))
        assert work.usage.begun_uploads("ann") == 1


def test_an_upload_that_becomes_a_checkpoint_meanwhile_counts_once(database: Database) -> None:
    with database.write() as work:
        work.partial_uploads.add(partial_upload("up_1"))
    completed: list[str] = []

    def complete(*_: Any) -> None:
        """Another transaction, right after the first statement of the count."""
        if completed:
            return
        completed.append("up_1")
        with database.write() as other:
            upload = other.partial_uploads.hold("up_1", "ann")
            assert upload is not None
            other.partial_uploads.complete(
                upload, other.checkpoints.add(rows.checkpoint(owner="ann", bytes=300)).id
            )

    with database.read() as work:
        event.listen(database.engine, "after_cursor_execute", complete)
        assert work.usage.stored_bytes("ann") == 300
    assert completed


def test_jobs_count_while_they_wait(database: Database) -> None:
    first = rows.queued_job(database, owner="ann")
    rows.queued_job(database, owner="ann")
    rows.queued_job(database, owner="bob")
    with database.write() as work:
        assert work.usage.queued_jobs("ann") == 2
        assert rows.claim_job(work, first, "test", 60)
        assert work.usage.queued_jobs("ann") == 1
