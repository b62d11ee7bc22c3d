"""What a call needs from around it: the caller, the database, the blobs, the queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from store.blobs import BlobStore
from store.database import Database
from store.logging import add_log_fields
from store.queue import Queue


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Rows carry the owner, and no query sees those of another."""

    owner: str


@dataclass(frozen=True, slots=True)
class Resources:
    """Opened once by the application's lifespan, shared by every call."""

    database: Database
    blobs: BlobStore
    queue: Queue
    idempotency_lifetime: timedelta


def caller_of(request: Request) -> Caller:
    """The place of authentication: until there is any, everyone is the one local user."""
    caller = Caller(owner="local")
    add_log_fields(owner=caller.owner)
    return caller


def resources_of(request: Request) -> Resources:
    resources = request.app.state.resources
    assert isinstance(resources, Resources)
    return resources


CallerDep = Annotated[Caller, Depends(caller_of)]
ResourcesDep = Annotated[Resources, Depends(resources_of)]
