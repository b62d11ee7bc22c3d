from __future__ import annotations

from pydantic import BaseModel


class Allowance(BaseModel):
    """`allowed` is null where nothing limits it."""

    used: int
    allowed: int | None

    @classmethod
    def of(cls, used: int, allowed: int) -> Allowance:
        return cls(used=used, allowed=allowed or None)


class LimitsOut(BaseModel):
    """What the caller may take and has taken.

    `key_id` is null where no key is needed, `calls_per_minute` where calls are not counted. `uploads` counts
    those under way in the API process that answers, `begun_uploads` the resumable ones that are not ended;
    `upload_bytes` is the largest file.
    """

    owner: str
    key_id: str | None
    stored_bytes: Allowance
    queued_jobs: Allowance
    uploads: Allowance
    begun_uploads: Allowance
    calls_per_minute: Allowance | None
    upload_bytes: int
