"""Bytes on their way from S3: one request for as long as reading goes on, another after a break or a seek."""

from __future__ import annotations

import io
import logging
from typing import Any

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from store.blobs.s3_errors import reached
from store.errors import Unavailable

log = logging.getLogger(__name__)

# How often in a row a connection may break before any byte comes.
_BREAKS = 3


class S3Reader(io.RawIOBase):
    """The bytes from `start` up to `stop`, or to the end where that is None. Positions are the object's.

    Raises BlobMissing and Unavailable, at the earliest with the first read.
    """

    def __init__(
        self, client: Any, bucket: str, key: str, sha256: str, start: int = 0, stop: int | None = None
    ) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._sha256 = sha256
        self._at = start
        self._stop = stop
        self._body: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END and self._stop is None:
            raise io.UnsupportedOperation("the end is not known")
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stop or 0}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative position {origin + offset}")
        if origin + offset != self._at:
            self._drop()
            self._at = origin + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        with memoryview(buffer).cast("B") as view:
            for left in reversed(range(_BREAKS)):
                try:
                    return self._read(view)
                except (BotoCoreError, HTTPError) as error:
                    self._drop()
                    log.warning("the blob store broke off at byte %d: %s", self._at, error)
                    if not left:
                        raise Unavailable("The blob store breaks off. Try again soon.") from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, view: memoryview) -> int:
        if self._stop is not None and self._at >= self._stop:
            return 0
        if self._body is None:
            self._request()
        if self._stop is not None:
            view = view[: self._stop - self._at]
        data = self._body.read(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _request(self) -> None:
        asked = {}
        if self._at or self._stop is not None:  # an empty object has no range at all
            last = "" if self._stop is None else str(self._stop - 1)
            asked["Range"] = f"bytes={self._at}-{last}"
        with reached(self._sha256):
            answer = self._client.get_object(**self._place, **asked)
        self._body = answer["Body"]
        if self._stop is None:
            self._stop = self._at + int(answer["ContentLength"])

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
