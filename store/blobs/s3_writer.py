"""Bytes on their way to S3, whose sum is known only when the last one has come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from boto3.s3.transfer import TransferConfig

from store.blobs.protocol import BlobRef
from store.blobs.s3_errors import reached
from store.blobs.summed import Summed
from store.errors import Unavailable

log = logging.getLogger(__name__)

# What a writer holds in memory. S3 takes 10,000 parts of at least 5 MiB: 78 GiB at this size.
PART_BYTES = 8 << 20


class S3BlobWriter(Summed):
    """What fits one part is put in place by `commit` at once. More goes, part by part, to a temporary
    key while it comes, and `commit` has the store copy it."""

    def __init__(
        self, client: Any, bucket: str, temporary: str, key: Callable[[str], str], copying: TransferConfig
    ) -> None:
        """`key` makes the final key of a sha256, `copying` says how large objects are copied."""
        super().__init__()
        self._client = client
        self._temporary = {"Bucket": bucket, "Key": temporary}
        self._key = key
        self._copying = copying
        self._rest = bytearray()
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._uploaded = False

    def write(self, data: bytes | memoryview) -> None:
        self._count(data)
        self._rest += data
        while len(self._rest) > PART_BYTES:  # what is left may be the last part, and is never empty
            with memoryview(self._rest) as view:
                part = bytes(view[:PART_BYTES])
            self._send(part)
            del self._rest[:PART_BYTES]

    def sync(self) -> None:
        if self._upload_id is None or self._uploaded:
            return
        self._send(bytes(self._rest))
        self._rest.clear()
        with reached():
            self._client.complete_multipart_upload(
                **self._temporary, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
            )
        self._uploaded = True

    def commit(self) -> BlobRef:
        self.sync()
        bucket, key = self._temporary["Bucket"], self._key(self.sha256)
        with reached():
            if self._uploaded:
                self._client.copy(self._temporary, bucket, key, Config=self._copying)
            else:
                self._client.put_object(Bucket=bucket, Key=key, Body=bytes(self._rest))
        return BlobRef(self.sha256, self.size)

    def __enter__(self) -> S3BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What the store does not hear of now, `remove_abandoned` finds.
        with suppress(Unavailable), reached():
            if self._uploaded:
                self._client.delete_object(**self._temporary)
            elif self._upload_id is not None:
                self._client.abort_multipart_upload(**self._temporary, UploadId=self._upload_id)
        self._rest.clear()

    def _send(self, part: bytes) -> None:
        with reached():
            if self._upload_id is None:
                self._upload_id = self._client.create_multipart_upload(**self._temporary)["UploadId"]
            number = len(self._parts) + 1
            sent = self._client.upload_part(
                **self._temporary, UploadId=self._upload_id, PartNumber=number, Body=part
            )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})
