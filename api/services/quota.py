"""What an owner may take: bytes, queued jobs, uploads at the same time and begun ones.

Bytes are asked for twice: by what an upload announces, or as it streams what it has brought, and in the
transaction that keeps it, under the owner's lock, so that no number of calls at the same time gets past a
limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio.to_thread import run_sync
from fastapi import Request

from api import metrics
from api.deps import Access, Caller, Resources
from api.drain import draining
from api.errors import QuotaExceeded, TooMany
from api.schemas.limits import Allowance, LimitsOut
from store.database import UnitOfWork

# What a form may take beside its file: an upload that fits is not refused for its wrapping.
_FORM_BYTES = 64 << 10
_UPLOAD_SECONDS, _JOB_SECONDS, _BEGUN_SECONDS = 5, 30, 60


@dataclass(frozen=True, slots=True)
class Room:
    """What an owner had stored at some moment, and may store, in bytes; `allowed` 0 is no limit."""

    used: int
    allowed: int

    def check(self, size: int) -> None:
        """Raises QuotaExceeded when `size` bytes more are too many."""
        if self.allowed and self.used + size > self.allowed:
            metrics.limited("stored_bytes")
            raise QuotaExceeded(
                f"You have stored {self.used} of {self.allowed} bytes; {size} more do not fit. "
                "Delete checkpoints or datasets that you no longer need.",
                used=self.used,
                allowed=self.allowed,
            )

    def check_body(self, size: int) -> None:
        """As `check`, for a body of so many bytes, or for those of it that have come."""
        self.check(max(0, size - _FORM_BYTES))


_UNLIMITED = Room(0, 0)


@asynccontextmanager
async def admitted(
    request: Request, resources: Resources, caller: Caller, *, has_room: bool = False
) -> AsyncIterator[Room]:
    """One of the owner's uploads at the same time, with room for what it announces; the room that there is.

    `has_room`: it was made sure of before. Raises TooMany, QuotaExceeded.
    """
    access = resources.access
    with access.uploads.one(caller.owner) as free:
        async with draining(request, request.stream()):
            if not free:
                metrics.limited("uploads")
                raise TooMany(
                    f"{access.uploads.allowed} uploads of yours are under way, as many as may be. "
                    "Wait until one has ended.",
                    code="too_many_uploads",
                    retry_after=_UPLOAD_SECONDS,
                )
            room = _UNLIMITED if has_room else await run_sync(_room, resources, caller)
            length = request.headers.get("content-length", "")
            room.check_body(int(length) if length.isdecimal() else 0)
        yield room


def _room(resources: Resources, caller: Caller) -> Room:
    if not resources.access.stored_bytes:
        return _UNLIMITED
    with resources.database.read() as work:
        return Room(work.usage.stored_bytes(caller.owner), resources.access.stored_bytes)


def lock(work: UnitOfWork, access: Access, caller: Caller) -> None:
    """First thing in a transaction that adds to what the owner has; the checks below then hold."""
    if access.stored_bytes or access.queued_jobs or access.begun_uploads:
        work.lock_owner(caller.owner)


def check_room(work: UnitOfWork, access: Access, caller: Caller, size: int) -> None:
    """Raises QuotaExceeded when `size` bytes more are too many."""
    if access.stored_bytes:
        Room(work.usage.stored_bytes(caller.owner), access.stored_bytes).check(size)


def check_queue(work: UnitOfWork, access: Access, caller: Caller) -> None:
    """Raises TooMany when as many jobs wait as may."""
    if access.queued_jobs and work.usage.queued_jobs(caller.owner) >= access.queued_jobs:
        metrics.limited("queued_jobs")
        raise TooMany(
            f"{access.queued_jobs} jobs of yours are queued, as many as may be. Wait until one has begun.",
            code="too_many_jobs",
            retry_after=_JOB_SECONDS,
        )


def check_begun(work: UnitOfWork, access: Access, caller: Caller) -> None:
    """Raises TooMany when as many resumable uploads are begun as may."""
    if access.begun_uploads and work.usage.begun_uploads(caller.owner) >= access.begun_uploads:
        metrics.limited("begun_uploads")
        raise TooMany(
            f"{access.begun_uploads} uploads of yours are begun, as many as may be. End one or delete it: "
            "GET /v1/uploads (zsq uploads list) lists them. Those that nothing comes for go by themselves.",
            code="too_many_begun_uploads",
            retry_after=_BEGUN_SECONDS,
        )


async def limits(resources: Resources, caller: Caller, max_upload_bytes: int) -> LimitsOut:
    access = resources.access
    stored, queued, begun = await run_sync(_taken, resources, caller)
    calls = await access.calls.look(caller.owner)
    return LimitsOut(
        owner=caller.owner,
        key_id=caller.key_id,
        stored_bytes=Allowance.of(stored, access.stored_bytes),
        queued_jobs=Allowance.of(queued, access.queued_jobs),
        uploads=Allowance.of(access.uploads.used(caller.owner), access.uploads.allowed),
        begun_uploads=Allowance.of(begun, access.begun_uploads),
        calls_per_minute=Allowance.of(calls.limit - calls.remaining, calls.limit) if calls else None,
        upload_bytes=max_upload_bytes,
    )


def _taken(resources: Resources, caller: Caller) -> tuple[int, int, int]:
    with resources.database.read() as work:
        usage, owner = work.usage, caller.owner
        return usage.stored_bytes(owner), usage.queued_jobs(owner), usage.begun_uploads(owner)
