"""Every error that the store raises on purpose.

    StoreError           code, detail
    ├── InUse            a checkpoint or dataset that an unfinished job needs cannot be deleted
    ├── AlreadyEnded     a job that has ended cannot be canceled
    ├── BlobMissing      the database names bytes that the blob store does not have
    └── Unavailable      the database cannot be reached, or is too busy; trying again may help

HTTP status codes live in `api/errors.py` alone.
"""

from __future__ import annotations


class StoreError(Exception):
    default_code = "store_error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code


class InUse(StoreError):
    default_code = "in_use"


class AlreadyEnded(StoreError):
    default_code = "already_ended"


class BlobMissing(StoreError):
    default_code = "blob_missing"


class Unavailable(StoreError):
    default_code = "service_unavailable"
