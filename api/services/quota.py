"""What an owner may take: bytes, queued jobs, uploads at the same time.

Bytes are asked for twice: by what an upload announces, before it is received, and in the transaction that
keeps it, under the owner's lock, so that no number of calls at the same time gets past a limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import Request

from api import metrics
from api.deps import Access, Caller, Resources
from api.drain import drain
from api.errors import ApiError, QuotaExceeded, TooMany
from api.schemas.limits import Allowance, LimitsOut
from store.database import UnitOfWork

# What a form may take beside its file: an upload that fits is not refused for its wrapping.
_FORM_BYTES = 64 << 10
_UPLOAD_SECONDS, _JOB_SECONDS = 5, 30


@asynccontextmanager
async def admitted(
    request: Request, resources: Resources, caller: Caller, *, has_room: bool = False
) -> AsyncIterator[None]:
    """One of the owner's uploads at the same time, with room for what it announces.

    `has_room`: it was made sure of before. Raises TooMany, QuotaExceeded.
    """
    access = resources.access
    with access.uploads.one(caller.owner) as free:
        try:
            if not free:
                metrics.limited("uploads")
                raise TooMany(
                    f"{access.uploads.allowed} uploads of yours are under way, as many as may be. "
                    "Wait until one has ended.",
                    code="too_many_uploads",
                    retry_after=_UPLOAD_SECONDS,
                )
            length = request.headers.get("content-length", "")
            if access.stored_bytes and length.isdecimal() and not has_room:
                await run_sync(_check_announced, resources, caller, int(length) - _FORM_BYTES)
        except ApiError:
            await drain(request, request.stream())
            raise
        yield


def _check_announced(resources: Resources, caller: Caller, size: int) -> None:
    with resources.database.read() as work:
        check_room(work, resources.access, caller, max(0, size))


def lock(work: UnitOfWork, access: Access, caller: Caller) -> None:
    """First thing in a transaction that adds to what the owner has; the checks below then hold."""
    if access.stored_bytes or access.queued_jobs:
        work.lock_owner(caller.owner)


def check_room(work: UnitOfWork, access: Access, caller: Caller, size: int) -> None:
    """Raises QuotaExceeded when `size` bytes more are too many."""
    if not access.stored_bytes:
        return
    used = work.usage.stored_bytes(caller.owner)
    if used + size > access.stored_bytes:
        metrics.limited("stored_bytes")
        raise QuotaExceeded(
            f"You have stored {used} of {access.stored_bytes} bytes; {size} more do not fit. "
            "Delete checkpoints or datasets that you no longer need.",
            used=used,
            allowed=access.stored_bytes,
        )


def check_queue(work: UnitOfWork, access: Access, caller: Caller) -> None:
    """Raises TooMany when as many jobs wait as may."""
    if access.queued_jobs and work.usage.queued_jobs(caller.owner) >= access.queued_jobs:
        metrics.limited("queued_jobs")
        raise TooMany(
            f"{access.queued_jobs} jobs of yours are queued, as many as may be. Wait until one has begun.",
            code="too_many_jobs",
            retry_after=_JOB_SECONDS,
        )


async def limits(resources: Resources, caller: Caller, max_upload_bytes: int) -> LimitsOut:
    access = resources.access
    stored, queued = await run_sync(_taken, resources, caller)
    calls = await access.calls.look(caller.owner)
    return LimitsOut(
        owner=caller.owner,
        key_id=caller.key_id,
        stored_bytes=Allowance.of(stored, access.stored_bytes),
        queued_jobs=Allowance.of(queued, access.queued_jobs),
        uploads=Allowance.of(access.uploads.used(caller.owner), access.uploads.allowed),
        calls_per_minute=Allowance.of(calls.limit - calls.remaining, calls.limit) if calls else None,
        upload_bytes=max_upload_bytes,
    )


def _taken(resources: Resources, caller: Caller) -> tuple[int, int]:
    with resources.database.read() as work:
        return work.usage.stored_bytes(caller.owner), work.usage.queued_jobs(caller.owner)
