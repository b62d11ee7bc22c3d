from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.blobs import LocalBlobs, make_blobs
from store.errors import BlobMissing

DATA = os.urandom(3_000_001)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def files(blobs: LocalBlobs) -> list[Path]:
    return [path for path in blobs.root.rglob("*") if path.is_file()]


def test_bytes_come_back_under_their_sha256(blobs: LocalBlobs, tmp_path: Path) -> None:
    with blobs.writer() as writer:
        for start in range(0, len(DATA), 70_000):
            writer.write(memoryview(DATA)[start : start + 70_000])
            assert not blobs.exists(SHA256)
        ref = writer.commit()
    assert (ref.sha256, ref.size) == (SHA256, len(DATA))
    with blobs.open(SHA256) as file:
        file.seek(1_000)
        assert file.read() == DATA[1_000:]
    blobs.fetch(SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    path = blobs.local_path(SHA256)
    assert path is not None and path.read_bytes() == DATA
    assert files(blobs) == [path]


def test_the_same_bytes_are_kept_once(blobs: LocalBlobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with ThreadPoolExecutor(4) as pool:
        refs = set(pool.map(lambda _: blobs.put_file(tmp_path / "file"), range(8)))
    assert len(refs) == 1 and len(files(blobs)) == 1


def test_nothing_stays_of_a_broken_write(blobs: LocalBlobs) -> None:
    with pytest.raises(RuntimeError), blobs.writer() as writer:
        writer.write(DATA)
        raise RuntimeError
    with blobs.writer() as writer:
        writer.write(DATA)
    assert files(blobs) == []


def test_what_is_missing_says_so(blobs: LocalBlobs, tmp_path: Path) -> None:
    with pytest.raises(BlobMissing):
        blobs.open(SHA256)
    with pytest.raises(BlobMissing):
        blobs.fetch(SHA256, tmp_path / "copy")
    assert not blobs.exists(SHA256) and blobs.local_path(SHA256) is None
    blobs.delete(SHA256)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "AB" * 32, "ab" * 31])
def test_only_a_sha256_names_a_blob(blobs: LocalBlobs, name: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        blobs.open(name)


def test_abandoned_writes_are_removed_and_living_ones_left(blobs: LocalBlobs) -> None:
    old = blobs.incoming / "old"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    with blobs.writer() as writer:
        writer.write(DATA)
        assert blobs.remove_abandoned(3600) == 1
        assert writer.commit().sha256 == SHA256


def test_a_url_names_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    assert make_blobs(folder.as_uri()).root == folder
    with pytest.raises(ValueError, match="ZSQ_BLOBS_URL"):
        make_blobs("s3://bucket")
