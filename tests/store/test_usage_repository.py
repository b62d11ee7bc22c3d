from __future__ import annotations

from datetime import timedelta

from store.database import Database
from store.tables import PartialUpload, utc_now
from tests.store import rows


def test_bytes_are_those_of_the_owners_uploads_finished_and_begun(database: Database) -> None:
    with database.write() as work:
        assert work.usage.stored_bytes("ann") == 0
        work.checkpoints.add(rows.checkpoint(owner="ann", bytes=2**40))
        work.datasets.add(rows.dataset(owner="ann", bytes=20))
        work.checkpoints.add(rows.checkpoint(owner="bob", bytes=7000))
        for id, resource in (("up_1", None), ("up_2", "ckpt_1")):
            expires = utc_now() + timedelta(hours=1)
            row = PartialUpload(
                id=id, owner="ann", kind="checkpoint", fields={}, length=300, expires_at=expires
            )
            row.resource_id = resource
            work._session.add(row)
        work._session.flush()
        assert work.usage.stored_bytes("ann") == 2**40 + 20 + 300, "what became a checkpoint counts as one"


def test_jobs_count_while_they_wait(database: Database) -> None:
    first = rows.queued_job(database, owner="ann")
    rows.queued_job(database, owner="ann")
    rows.queued_job(database, owner="bob")
    with database.write() as work:
        assert work.usage.queued_jobs("ann") == 2
        assert work.jobs.claim(first, "test", 60)
        assert work.usage.queued_jobs("ann") == 1
