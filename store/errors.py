"""Every error that the store raises on purpose.

    StoreError           code, detail, retryable
    ├── InUse            a checkpoint or dataset that an unfinished job needs cannot be deleted
    ├── AlreadyEnded     a job that has ended cannot be canceled
    ├── JobUnfinished    a job that is queued or running cannot be deleted
    ├── BlobMissing      the database names bytes that the blob store does not have
    ├── BlobCorrupt      the blob store gave other bytes than those that were put there
    └── Unavailable      the database or the blob store cannot be reached, or is too busy

`retryable`: trying the same again may help.

HTTP status codes live in `api/errors.py` alone.
"""

from __future__ import annotations


class StoreError(Exception):
    default_code = "store_error"
    retryable = False

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code


class InUse(StoreError):
    default_code = "in_use"


class AlreadyEnded(StoreError):
    default_code = "already_ended"


class JobUnfinished(StoreError):
    default_code = "job_unfinished"


class BlobMissing(StoreError):
    default_code = "blob_missing"


class BlobCorrupt(StoreError):
    default_code = "blob_corrupt"
    retryable = True


class Unavailable(StoreError):
    default_code = "service_unavailable"
    retryable = True
