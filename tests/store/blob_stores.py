"""Both stores for tests, and a way to look behind them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from store.blobs import BlobStore, LocalBlobs
from store.blobs.local import LocalBlobWriter
from store.blobs.s3 import S3Blobs
from store.blobs.s3_writer import S3BlobWriter
from store.database import Database
from store.garbage import delete_unused


def put(blobs: BlobStore, data: bytes) -> str:
    with blobs.writer() as writer:
        writer.write(data)
        return writer.commit().sha256


def writer_class(blobs: BlobStore) -> Any:
    return LocalBlobWriter if isinstance(blobs, LocalBlobs) else S3BlobWriter


def after_commits(
    monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, act: Callable[[str], object]
) -> list[str]:
    """Acts on every sha256 that a writer has committed; those that were, in their order."""
    writer = writer_class(blobs)
    commit, committed = writer.commit, list[str]()

    def committing(self: Any) -> Any:
        ref = commit(self)
        committed.append(ref.sha256)
        act(ref.sha256)
        return ref

    monkeypatch.setattr(writer, "commit", committing)
    return committed


def before_commit(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, act: Callable[[], object]) -> None:
    """Acts once: when a writer is about to commit."""
    writer = writer_class(blobs)
    commit, waiting = writer.commit, [act]

    def committing(self: Any) -> Any:
        if waiting:
            waiting.pop()()
        return commit(self)

    monkeypatch.setattr(writer, "commit", committing)


def others_write(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, database: Database) -> list[str]:
    """While the store takes its time for a commit, others write to the database, and lock that very blob."""

    def write(sha256: str) -> None:
        with database.write() as work:
            work.blobs.lock(sha256)

    return after_commits(monkeypatch, blobs, write)


def deleted_once(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, database: Database) -> set[str]:
    """Somebody deletes every blob as soon as it is there, before it has a row; those, each of them once."""
    deleted = set[str]()

    def delete(sha256: str) -> None:
        if sha256 not in deleted:
            deleted.add(sha256)
            assert delete_unused(database, blobs, sha256)

    after_commits(monkeypatch, blobs, delete)
    return deleted


def everything(blobs: BlobStore) -> list[str]:
    """Every file or object there is, whatever it is for, and every upload that is still open."""
    if isinstance(blobs, LocalBlobs):
        return sorted(path.name for path in blobs.root.rglob("*") if path.is_file())
    assert isinstance(blobs, S3Blobs)
    client, place = blobs._client, {"Bucket": blobs.bucket, "Prefix": blobs.prefix}
    objects = [found["Key"] for found in client.list_objects_v2(**place).get("Contents", ())]
    uploads = [found["Key"] for found in client.list_multipart_uploads(**place).get("Uploads", ())]
    return sorted(key.removeprefix(blobs.prefix) for key in [*objects, *uploads])


def age(blobs: BlobStore, sha256: str, seconds: float) -> None:
    """Makes the blob look that old."""
    if isinstance(blobs, LocalBlobs):
        then = blobs.place(sha256).stat().st_mtime - seconds
        os.utime(blobs.place(sha256), (then, then))
        return
    assert isinstance(blobs, S3Blobs)
    stored(blobs, blobs.prefix + sha256).last_modified -= timedelta(seconds=seconds)


def age_incoming(blobs: BlobStore, seconds: float) -> None:
    """Makes everything that is on its way look that old."""
    if isinstance(blobs, LocalBlobs):
        for path in blobs.incoming.iterdir():
            os.utime(path, (path.stat().st_mtime - seconds,) * 2)
        return
    assert isinstance(blobs, S3Blobs)
    bucket = _bucket(blobs)
    for upload in bucket.multiparts.values():
        if upload.key_name.startswith(blobs.prefix):
            for part in upload.parts.values():  # they say when it grew; all began in 2010, by this server
                part.last_modified -= timedelta(seconds=seconds)
    for key in bucket.keys.values():
        if key.name.startswith(f"{blobs.prefix}incoming/"):
            key.last_modified -= timedelta(seconds=seconds)


def damage(blobs: BlobStore, sha256: str) -> None:
    """Other bytes under the same name."""
    if isinstance(blobs, LocalBlobs):
        blobs.place(sha256).write_bytes(b"other bytes")
        return
    assert isinstance(blobs, S3Blobs)
    blobs._client.put_object(Bucket=blobs.bucket, Key=blobs.prefix + sha256, Body=b"other bytes")


def stored(blobs: S3Blobs, key: str) -> Any:
    """The test server's own record of an object: no client may set a time of modification."""
    return _bucket(blobs).keys[key]


def _bucket(blobs: S3Blobs) -> Any:
    from moto.backends import get_backend

    return get_backend("s3")["123456789012"]["aws"].buckets[blobs.bucket]
