"""Whether what the API stands on answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from api.deps import Resources
from api.schemas.health import Check

log = logging.getLogger(__name__)


def check_all(resources: Resources) -> dict[str, Check]:
    """Database, broker and blobs, asked at the same time; each gives up within seconds."""
    pings: dict[str, Callable[[], None]] = {
        "database": resources.database.ping,
        "broker": resources.queue.ping,
        "blobs": resources.blobs.ping,
    }
    with ThreadPoolExecutor(len(pings)) as pool:
        return dict(zip(pings, pool.map(_check, pings, pings.values()), strict=True))


def _check(name: str, ping: Callable[[], None]) -> Check:
    try:
        ping()
    except Exception as error:  # each driver has its own; a URL's password must not come out
        log.warning("%s does not answer: %s", name, error)
        return Check(ok=False, detail=f"The {name} does not answer ({type(error).__name__}).")
    return Check(ok=True)
