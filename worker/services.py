"""What every task needs, made once a process."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from store.blobs import BlobStore, make_blobs
from store.database import Database
from store.queue import Queue
from store.settings import StoreSettings, store_settings
from worker.settings import WorkerSettings, worker_settings


@dataclass(frozen=True, slots=True)
class Services:
    """`device` is where jobs compute, as torch names it. `stopping` is set when this worker is told to end:
    jobs and inspections are handed back."""

    database: Database
    blobs: BlobStore
    queue: Queue
    store: StoreSettings
    settings: WorkerSettings
    device: str = "cpu"
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def workspaces(self) -> Path:
        return self.store.data_dir / "work"


_device = "cpu"


def compute_on(device: str) -> None:
    """Says where this process's jobs compute, before anybody has asked for its services."""
    global _device
    _device = device


@cache
def services() -> Services:
    """Raises ValueError for settings that cannot work together."""
    store, settings = store_settings(), worker_settings()
    if settings.heartbeat_seconds * 3 > store.lease_seconds:
        raise ValueError(
            f"ZSQ_LEASE_SECONDS ({store.lease_seconds:g}) must be at least three times "
            f"ZSQ_HEARTBEAT_SECONDS ({settings.heartbeat_seconds:g}), or jobs lose their lease while they run"
        )
    return Services(
        database=Database.from_settings(store),
        blobs=make_blobs(store.blobs_url, store.s3_endpoint),
        queue=Queue(store.broker_url),
        store=store,
        settings=settings,
        device=_device,
    )
