"""What every store must do, on a folder and on an S3 server; what is one store's own has its own file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from store.blobs import BlobStore, make_blobs
from store.blobs.s3 import S3Blobs
from store.errors import BlobCorrupt, BlobMissing
from tests.store.blob_stores import age, age_incoming, damage, everything, put

# More than two parts of an upload to S3, and no whole number of them.
DATA = os.urandom(1 << 20) * 17 + b"end"
SHA256 = hashlib.sha256(DATA).hexdigest()
SMALL = DATA[-100_000:]
OTHER = "0" * 64


def write(blobs: BlobStore, data: bytes) -> str:
    with blobs.writer() as writer:
        for start in range(0, len(data), 700_000):
            writer.write(memoryview(data)[start : start + 700_000])
        assert writer.size == len(data) and not blobs.exists(writer.sha256)
        writer.sync()
        return writer.commit().sha256


class TestBytes:
    @pytest.mark.parametrize("data", [DATA, SMALL, b""], ids=["large", "small", "empty"])
    def test_they_come_back_under_their_sha256(self, blobs: BlobStore, data: bytes, tmp_path: Path) -> None:
        sha256 = write(blobs, data)
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert blobs.exists(sha256) and blobs.size(sha256) == len(data)
        with blobs.open(sha256) as file:
            assert file.read() == data
        assert b"".join(blobs.stream(sha256)) == data
        blobs.fetch(sha256, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert everything(blobs) == [sha256]

    def test_a_file_can_be_read_from_anywhere(self, blobs: BlobStore) -> None:
        sha256 = write(blobs, DATA)
        with blobs.open(sha256) as file:
            for position, whence, first in ((5_000_000, 0, 5_000_000), (-10, 2, len(DATA) - 10), (7, 0, 7)):
                file.seek(position, whence)
                assert file.tell() == first
                assert file.read(1000) == DATA[first : first + 1000]
            assert file.read() == DATA[1007:] and file.read() == b""

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 10), (9_000_000, None), (5, 12_000_000), (len(DATA), None)]
    )
    def test_a_part_comes_in_flat_pieces(self, blobs: BlobStore, start: int, stop: int | None) -> None:
        write(blobs, DATA)
        pieces = list(blobs.stream(SHA256, start, len(DATA) if stop is None else stop))
        assert b"".join(pieces) == DATA[start:stop]
        assert all(0 < len(piece) <= 1 << 20 for piece in pieces)

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    def test_a_file_is_stored(self, blobs: BlobStore, data: bytes) -> None:
        ref = blobs.put_file(io.BytesIO(data))
        assert (ref.sha256, ref.size) == (hashlib.sha256(data).hexdigest(), len(data))
        assert b"".join(blobs.stream(ref.sha256)) == data

    def test_the_same_ones_are_kept_once(self, blobs: BlobStore) -> None:
        ways: list[Callable[[], str]] = [
            lambda: blobs.put_file(io.BytesIO(DATA)).sha256,
            lambda: put(blobs, DATA),
        ]
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda n: ways[n % 2](), range(4))) == {SHA256}
        assert everything(blobs) == [SHA256]
        assert b"".join(blobs.stream(SHA256)) == DATA

    def test_they_are_fetched_for_as_long_as_somebody_wants_them(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        write(blobs, DATA)
        answers = iter([True, True, False])
        assert blobs.fetch(SHA256, tmp_path / "copy", lambda: next(answers)) is False
        assert 0 < (tmp_path / "copy").stat().st_size < len(DATA)
        assert blobs.fetch(SHA256, tmp_path / "copy", lambda: True) is True
        assert (tmp_path / "copy").read_bytes() == DATA

    def test_what_is_missing_says_so(self, blobs: BlobStore, tmp_path: Path) -> None:
        for ask in (blobs.open, blobs.size, lambda sha256: next(blobs.stream(sha256))):
            with pytest.raises(BlobMissing, match=OTHER):
                ask(OTHER)
        with pytest.raises(BlobMissing):
            blobs.fetch(OTHER, tmp_path / "copy")
        assert not blobs.exists(OTHER) and blobs.local_path(OTHER) is None and blobs.age(OTHER) is None
        blobs.delete(OTHER)

    def test_others_than_those_that_were_stored_are_not_taken(self, blobs: BlobStore, tmp_path: Path) -> None:
        sha256 = write(blobs, SMALL)
        damage(blobs, sha256)
        with pytest.raises(BlobCorrupt, match=sha256) as raised:
            blobs.fetch(sha256, tmp_path / "copy")
        assert raised.value.retryable
        assert put(blobs, SMALL) == sha256, "sent again, they are whole again"
        blobs.fetch(sha256, tmp_path / "copy")

    @pytest.mark.parametrize("name", ["../../etc/passwd", "", "AB" * 32, "ab" * 31])
    def test_only_a_sha256_names_them(self, blobs: BlobStore, name: str) -> None:
        for ask in (blobs.open, blobs.exists, blobs.delete, blobs.age):
            with pytest.raises(ValueError, match="sha256"):
                ask(name)


class TestWriting:
    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    def test_nothing_stays_of_what_is_not_committed(self, blobs: BlobStore, data: bytes) -> None:
        with pytest.raises(RuntimeError), blobs.writer() as writer:
            writer.write(data)
            raise RuntimeError
        with blobs.writer() as writer:
            writer.write(data)
            writer.sync()
        assert everything(blobs) == []

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    def test_what_was_deleted_since_is_committed_again(self, blobs: BlobStore, data: bytes) -> None:
        with blobs.writer() as writer:
            writer.write(data)
            first = writer.commit()
            blobs.delete(first.sha256)
            assert writer.commit() == first
        with blobs.open(first.sha256) as file:
            assert file.read() == data
        assert everything(blobs) == [first.sha256]

    def test_what_was_abandoned_is_removed_and_what_grows_is_left(self, blobs: BlobStore) -> None:
        old, older = blobs.writer(), blobs.writer()
        old.write(DATA)
        older.write(DATA)
        older.sync()
        assert len(everything(blobs)) == 2
        age_incoming(blobs, 2 * 3600)
        with blobs.writer() as living:
            living.write(DATA)
            assert blobs.remove_abandoned(3 * 3600) == 0
            assert blobs.remove_abandoned(3600) == 2
            assert living.commit().sha256 == SHA256
        assert everything(blobs) == [SHA256]
        old.__exit__(None, None, None)
        older.__exit__(None, None, None)


class TestAge:
    def test_the_old_are_listed(self, blobs: BlobStore) -> None:
        young, old = put(blobs, b"young"), put(blobs, b"old")
        age(blobs, old, 7200)
        [(sha256, modified)] = blobs.list_older(3600)
        assert sha256 == old
        assert abs(datetime.now(UTC) - modified - timedelta(hours=2)) < timedelta(minutes=5)
        assert {found for found, _ in blobs.list_older(0)} == {young, old}
        assert 7200 <= (blobs.age(old) or 0) < 7500 and 0 <= (blobs.age(young) or 0) < 300

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    def test_writing_again_makes_young(self, blobs: BlobStore, data: bytes) -> None:
        sha256 = put(blobs, data)
        ways: list[Callable[[], object]] = [
            lambda: put(blobs, data),
            lambda: blobs.put_file(io.BytesIO(data)),
        ]
        for again in ways:
            age(blobs, sha256, 7200)
            assert list(blobs.list_older(3600))
            again()
            assert not list(blobs.list_older(3600)) and (blobs.age(sha256) or 0) < 300

    @pytest.mark.parametrize("data", [DATA, SMALL], ids=["large", "small"])
    def test_age_counts_from_the_commit_however_long_the_bytes_took(
        self, blobs: BlobStore, data: bytes
    ) -> None:
        with blobs.writer() as writer:
            writer.write(data)
            writer.sync()
            age_incoming(blobs, 7200)
            assert (blobs.age(writer.commit().sha256) or 0) < 300

    def test_more_than_a_page_is_listed(self, blobs: BlobStore) -> None:
        names = {put(blobs, str(n).encode()) for n in range(25)}
        with pages_of(blobs, 10) as pages:
            assert {sha256 for sha256, _ in blobs.list_older(0)} == names
        assert len(pages) == (3 if isinstance(blobs, S3Blobs) else 0)

    def test_what_was_not_made_here_is_not_listed(self, blobs: BlobStore) -> None:
        writer = blobs.writer()
        writer.write(DATA)
        writer.sync()
        assert not list(blobs.list_older(0))
        writer.__exit__(None, None, None)


@contextmanager
def pages_of(blobs: BlobStore, size: int) -> Iterator[list[int]]:
    """Has S3 answer lists in pages of `size`; yields the sizes of those that were asked for."""
    asked: list[int] = []

    def shorten(params: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        asked.append(size)
        return {**params, "MaxKeys": size}

    if isinstance(blobs, S3Blobs):
        blobs._client.meta.events.register("provide-client-params.s3.ListObjectsV2", shorten)
    yield asked


def test_pings_are_answered(blobs: BlobStore) -> None:
    blobs.ping()


@pytest.mark.parametrize("url", ["s3://", "gs://bucket", "bucket", "/folder"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ZSQ_BLOBS_URL"):
        make_blobs(url)
