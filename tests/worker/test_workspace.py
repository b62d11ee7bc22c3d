from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from core.errors import RunError
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


def replace_the_folder(output: Path, foreign: Path) -> None:
    output.rename(output.with_name("moved"))
    output.symlink_to(foreign)


@pytest.mark.parametrize(
    "misdeed",
    [
        replace_the_folder,
        lambda output, foreign: (output / "secret").symlink_to(foreign / "secret"),
        lambda output, foreign: os.mkfifo(output / "secret"),
        lambda output, foreign: (output / "secret").mkdir(),
        lambda output, foreign: None,
    ],
    ids=["folder", "link", "pipe", "directory", "nothing"],
)
def test_only_plain_files_in_the_first_output_are_published(tmp_path: Path, misdeed: Any) -> None:
    foreign, blobs = tmp_path / "foreign", LocalBlobs(tmp_path / "blobs")
    foreign.mkdir()
    (foreign / "secret").write_text("the worker's environment")
    with workspace(tmp_path / "work", "job_0-1") as space:
        misdeed(space.output, foreign)
        named = {"name": "secret", "path": str(space.output / "secret"), "media_type": "text/plain"}
        with pytest.raises(RunError, match="no such file"):
            space.publish(blobs, [named], lambda: True)
    assert not list(blobs.list_older(0))


@pytest.mark.parametrize(
    "path", ["{output}/../scratch/a", "{output}/sub/a", "a", "{output}/..", "{output}/a\0"]
)
def test_only_files_of_the_output_itself_are_published(tmp_path: Path, path: str) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with workspace(tmp_path / "work", "job_0-1") as space:
        (space.output / "sub").mkdir()
        for folder in (space.scratch, space.output / "sub"):
            (folder / "a").write_text("a")
        named = {"name": "a", "path": path.format(output=space.output), "media_type": "text/plain"}
        with pytest.raises(RunError, match="no such file"):
            space.publish(blobs, [named], lambda: True)
