"""Blobs in a bucket: Amazon's S3, or whatever speaks its language.

Keys are `<prefix>/<sha256>`; uploads whose sum is not known before their end stand under
`<prefix>/incoming/` until a copy inside the store puts them in place.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from store.blobs.protocol import PIECE_BYTES, BlobRef, checked, is_sha256
from store.blobs.s3_errors import reached
from store.blobs.s3_reader import S3Reader
from store.blobs.s3_writer import PART_BYTES, S3BlobWriter
from store.blobs.verify import hashed
from store.errors import BlobMissing

log = logging.getLogger(__name__)

# A store that is away must not hold a call for minutes: few tries, short patience.
_PATIENCE = Config(
    connect_timeout=3,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=32,
)
_PING = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
_UPLOAD = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
# The store copies parts side by side: each answers long before the patience ends.
_COPY = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, max_concurrency=8)


class S3Blobs:
    """Credentials and region are found where Amazon's tools find them, such as `AWS_ACCESS_KEY_ID`.

    `endpoint` is an address such as `http://minio:9000`; empty, `AWS_ENDPOINT_URL` decides. Makes no
    request by itself, so that processes start while the store is away.
    """

    def __init__(self, bucket: str, prefix: str = "", *, endpoint: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        session = boto3.session.Session()
        with reached():
            self._client: Any = session.client("s3", endpoint_url=endpoint or None, config=_PATIENCE)
            self._pinging: Any = session.client("s3", endpoint_url=endpoint or None, config=_PING)

    def writer(self) -> S3BlobWriter:
        temporary = f"{self._incoming}{uuid.uuid4().hex}"
        return S3BlobWriter(self._client, self.bucket, temporary, self._key, _COPY)

    def put_file(self, file: BinaryIO) -> BlobRef:
        # A file is read twice, which is cheaper than a copy inside the store.
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with reached():
            self._client.upload_fileobj(file, self.bucket, self._key(sha256), Config=_UPLOAD)
        return BlobRef(sha256, size)

    def open(self, sha256: str) -> BinaryIO:
        reader = self._reader(sha256, 0, self.size(sha256))
        return io.BufferedReader(reader, PIECE_BYTES)

    def stream(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with closing(self._reader(sha256, start, stop)) as reader:
            while piece := reader.read(PIECE_BYTES):
                yield piece

    def local_path(self, sha256: str) -> Path | None:
        return None

    def fetch(self, sha256: str, dest: Path, go_on: Callable[[], bool] = lambda: True) -> bool:
        with dest.open("wb") as target:
            for piece in hashed(sha256, self.stream(sha256)):
                if not go_on():
                    return False
                target.write(piece)
        return True

    def exists(self, sha256: str) -> bool:
        return self._head(sha256) is not None

    def size(self, sha256: str) -> int:
        found = self._head(sha256)
        if found is None:
            raise BlobMissing(f"The stored file {sha256} is gone. Upload it again.")
        return int(found["ContentLength"])

    def age(self, sha256: str) -> float | None:
        found = self._head(sha256)
        return (_now(found) - found["LastModified"]).total_seconds() if found is not None else None

    def delete(self, sha256: str) -> None:
        self._delete(self._key(sha256))

    def list_older(self, seconds: float) -> Iterator[tuple[str, datetime]]:
        for now, found in self._list(self.prefix):
            sha256 = found["Key"].removeprefix(self.prefix)
            if is_sha256(sha256) and (now - found["LastModified"]).total_seconds() >= seconds:
                yield sha256, found["LastModified"]

    def remove_abandoned(self, older_than_seconds: float) -> int:
        removed = 0
        for now, found in self._list(self._incoming):
            if (now - found["LastModified"]).total_seconds() > older_than_seconds:
                self._delete(found["Key"])
                removed += 1
        pages = self._client.get_paginator("list_multipart_uploads")
        with reached():
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                cutoff = _now(page) - timedelta(seconds=older_than_seconds)
                for found in page.get("Uploads", ()):
                    if found["Initiated"] < cutoff and self._abort(found, cutoff):
                        removed += 1
        return removed

    def ping(self) -> None:
        with reached():
            self._pinging.head_bucket(Bucket=self.bucket)

    @property
    def _incoming(self) -> str:
        return f"{self.prefix}incoming/"

    def _key(self, sha256: str) -> str:
        return f"{self.prefix}{checked(sha256)}"

    def _reader(self, sha256: str, start: int, stop: int | None) -> S3Reader:
        return S3Reader(self._client, self.bucket, self._key(sha256), sha256, start, stop)

    def _head(self, sha256: str) -> Any:
        """What the store says of the bytes; None when it has none."""
        try:
            with reached(sha256):
                return self._client.head_object(Bucket=self.bucket, Key=self._key(sha256))
        except BlobMissing:
            return None

    def _list(self, prefix: str) -> Iterator[tuple[datetime, Any]]:
        """Every object under the prefix, page by page, and the time at the store."""
        pages = self._client.get_paginator("list_objects_v2")
        with reached():
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield _now(page), found

    def _abort(self, found: Any, cutoff: datetime) -> bool:
        """False when it has grown since, or when somebody else has ended it by now."""
        upload = {"Bucket": self.bucket, "Key": found["Key"], "UploadId": found["UploadId"]}
        try:
            if self._last_grown(upload) >= cutoff:
                return False
            self._client.abort_multipart_upload(**upload)
        except self._client.exceptions.NoSuchUpload:
            return False
        return True

    def _last_grown(self, upload: dict[str, str]) -> datetime:
        """When the newest part of a multipart upload came; ages ago for one that has none."""
        pages = self._client.get_paginator("list_parts").paginate(**upload)
        came = (part["LastModified"] for page in pages for part in page.get("Parts", ()))
        return max(came, default=datetime.min.replace(tzinfo=UTC))

    def _delete(self, key: str) -> None:
        with reached():
            self._client.delete_object(Bucket=self.bucket, Key=key)


def _now(answer: Any) -> datetime:
    """By the store's own clock, which also wrote its times of modification; ours may be hours off."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
