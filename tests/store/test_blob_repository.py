from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from store.blob_repository import REFERENCES
from store.database import Database, UnitOfWork
from store.tables import Artifact, Base, PartialUpload, UploadPart, utc_now
from tests.store.rows import checkpoint, dataset, job

SHA256, OTHER = "12" * 32, "34" * 32


def test_every_column_that_may_name_a_blob_is_known() -> None:
    """A table with a new one must be added there, or its blobs would be collected."""
    found = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("sha256")
    }
    assert found == {f"{each.column.parent.local_table.name}.{each.column.key}" for each in REFERENCES}


def with_artifact(work: UnitOfWork, session: Any) -> None:
    row = work.jobs.add(job(work.checkpoints.add(checkpoint()).id))
    session.add(Artifact(job_id=row.id, name="model.onnx", blob_sha256=SHA256, bytes=1, media_type="x/y"))


def with_part(work: UnitOfWork, session: Any) -> None:
    session.add(
        PartialUpload(id="up_1", owner="local", kind="checkpoint", fields={}, length=9, expires_at=utc_now())
    )
    session.flush()
    session.add(UploadPart(upload_id="up_1", offset=0, blob_sha256=SHA256, bytes=1))


WAYS: dict[str, Callable[[UnitOfWork, Any], Any]] = {
    "checkpoint.blob_sha256": lambda work, session: work.checkpoints.add(checkpoint(blob_sha256=SHA256)),
    "dataset.blob_sha256": lambda work, session: work.datasets.add(dataset(blob_sha256=SHA256)),
    "artifact.blob_sha256": with_artifact,
    "upload_part.blob_sha256": with_part,
    "job.resume_sha256": lambda work, session: work.jobs.add(
        job(work.checkpoints.add(checkpoint()).id, resume_sha256=SHA256)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_blob_is_in_use_while_any_row_names_it(database: Database, way: str) -> None:
    with database.write() as work:
        assert not work.blobs.in_use([SHA256])
        WAYS[way](work, work.blobs._session)
    with database.read() as work:
        assert work.blobs.in_use([OTHER, SHA256]) == {SHA256}


def test_every_column_is_tried_here() -> None:
    assert set(WAYS) == {f"{each.column.parent.local_table.name}.{each.column.key}" for each in REFERENCES}


def test_locks_of_one_blob_exclude_each_other_and_lock_sets_do_not_deadlock(database: Database) -> None:
    inside, most = 0, 0

    def enter(first: str, second: str) -> None:
        nonlocal inside, most
        for _ in range(15):
            with database.write() as work:
                work.blobs.lock(first, second)
                inside += 1
                most = max(most, inside)
                work.blobs.in_use([first])
                inside -= 1

    threads = [threading.Thread(target=enter, args=pair) for pair in ((SHA256, OTHER), (OTHER, SHA256)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 1
