from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from store.blobs import BlobStore, LocalBlobs, make_blobs
from store.errors import BlobCorrupt, BlobMissing
from tests.store.blob_stores import damage, put
from worker.failures import describe
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


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_other_bytes_than_those_that_were_stored_are_not_computed_on(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = (tmp_path / "blobs").as_uri()
    url = folder if kind == "local" else f"{request.getfixturevalue('s3_url')}/{uuid4().hex}"
    blobs: BlobStore = make_blobs(url)
    sha256 = put(blobs, b"weights")
    with workspace(tmp_path / "work", "job_0-1") as space:
        damage(blobs, sha256)
        with pytest.raises(BlobCorrupt) as raised:
            space.bring(blobs, sha256)
        assert describe(raised.value)["retryable"] and describe(raised.value)["code"] == "blob_corrupt"
        put(blobs, b"weights")
        assert space.bring(blobs, sha256).read_bytes() == b"weights"
