from __future__ import annotations

from pathlib import Path

import pytest

from store.blobs import LocalBlobs
from store.errors import BlobMissing
from worker.workspace import workspace


def test_what_was_brought_outlives_a_delete(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with blobs.writer() as writer:
        writer.write(b"weights")
        sha256 = writer.commit().sha256
    with workspace(tmp_path / "work", "job_0-1") as space:
        path = space.bring(blobs, sha256)
        blobs.delete(sha256)
        assert path.read_bytes() == b"weights"
        assert space.bring(blobs, sha256) == path
    with (
        workspace(tmp_path / "work", "job_0-2") as space,
        pytest.raises(BlobMissing, match="Upload it again"),
    ):
        space.bring(blobs, sha256)
