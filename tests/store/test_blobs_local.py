from __future__ import annotations

from pathlib import Path

import pytest

from store.blobs import LocalBlobs, make_blobs
from store.errors import Unavailable
from tests.store.blob_stores import put


def test_a_url_names_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    blobs = make_blobs(folder.as_uri())
    assert isinstance(blobs, LocalBlobs) and blobs.root == folder
    sha256 = put(blobs, b"bytes")
    path = blobs.local_path(sha256)
    assert path is not None and path.read_bytes() == b"bytes" and folder in path.parents


def test_a_folder_that_is_gone_is_no_answer_rather_than_a_crash(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.incoming.rmdir()
    blobs.incoming.write_text("a file where the folder was")
    for use in (blobs.writer, blobs.ping, lambda: blobs.remove_abandoned(0)):
        with pytest.raises(Unavailable, match="blob folder"):
            use()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with blobs.writer() as writer, Path("/dev/full").open("wb", buffering=0) as full:
        writer._file.close()
        writer._file = full  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="No space left"):
            writer.write(b"bytes")
