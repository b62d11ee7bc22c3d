"""What a call needs from around it: the caller, the database, the blobs, the queue, the limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from api.access.keyring import Keyring
from api.access.rates import Rate
from api.access.slots import Slots
from store.addresses import Network
from store.blobs import BlobStore
from store.database import Database
from store.queue import Queue

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Rows carry the owner, and no query sees those of another. `key_id` is None without auth."""

    owner: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call and how often: what the guard asks. Numbers of 0 are no limits."""

    keyring: Keyring
    calls: Rate
    failures: Rate
    uploads: Slots
    begun_uploads: int
    stored_bytes: int
    queued_jobs: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Opened once by the application's lifespan, shared by every call."""

    database: Database
    blobs: BlobStore
    queue: Queue
    access: Access
    idempotency_lifetime: timedelta
    webhook_allowed_networks: tuple[Network, ...] = ()


# Both are async though they wait for nothing: FastAPI would call plain functions in another thread.
async def caller_of(request: Request) -> Caller:
    """Whom the guard found. It stands before every call under /v1."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


async def resources_of(request: Request) -> Resources:
    resources = request.app.state.resources
    assert isinstance(resources, Resources)
    return resources


CallerDep = Annotated[Caller, Depends(caller_of)]
ResourcesDep = Annotated[Resources, Depends(resources_of)]
