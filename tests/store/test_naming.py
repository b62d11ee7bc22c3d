from __future__ import annotations

import pytest

from store.blobs import BlobStore
from store.database import Database
from store.garbage import delete_unused
from store.naming import hold_blobs
from tests.store.blob_stores import age, everything, put
from tests.store.rows import checkpoint


def test_bytes_that_somebody_deleted_are_written_again(database: Database, blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"weights")
        sha256 = writer.commit().sha256
        assert delete_unused(database, blobs, sha256), "no row names them yet"
        with database.write() as work:
            hold_blobs(work, blobs, {sha256: writer.commit})
            work.checkpoints.add(checkpoint(blob_sha256=sha256))
    assert not delete_unused(database, blobs, sha256)
    with blobs.open(sha256) as file:
        assert file.read() == b"weights"
    assert everything(blobs) == [sha256]


def test_old_bytes_that_nobody_names_are_young_again_for_the_collector(
    database: Database, blobs: BlobStore
) -> None:
    """It may have found them before they were sent once more."""
    sha256 = put(blobs, b"weights")
    age(blobs, sha256, 7200)
    with blobs.writer() as writer:
        writer.write(b"weights")
        writer.commit()
        assert not delete_unused(database, blobs, sha256, older_than=3600)
        with database.write() as work:
            hold_blobs(work, blobs, {sha256: lambda: pytest.fail("they are there")})
            work.checkpoints.add(checkpoint(blob_sha256=sha256))
    assert everything(blobs) == [sha256]
