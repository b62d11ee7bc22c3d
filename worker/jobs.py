"""Jobs, one after another: whose turn it is, and what dead workers leave in the folder of workspaces."""

from __future__ import annotations

import logging
from collections.abc import Collection

from store import tracing
from worker.attempt import ENTRY, Attempt
from worker.services import Services
from worker.workspace import remove_abandoned

_PAUSE_SECONDS = 1.0
_PAUSE_MAX_SECONDS = 30.0

log = logging.getLogger(__name__)


def run_jobs(services: Services, devices: Collection[str], *, entry: str = ENTRY) -> None:
    """Runs every job that may run on `devices` (any, cpu, gpu), until none is left or this worker is told to
    stop. Not the one alone that a message spoke of: so a message that got lost is made good by the next.

    Where this machine fails them (storage away, disk full), it pauses between them, longer each time.
    """
    limit, faults = services.settings.owner_running_jobs, 0
    while not services.stopping.is_set():
        with services.database.write() as work:
            claim = work.jobs.claim_next(services.name, services.store.lease_seconds, devices, limit)
        if claim is None:
            return
        if Attempt(services, claim, entry).run():
            faults = 0
            continue
        faults += 1
        seconds = pause_seconds(faults)
        log.warning("this machine fails its jobs, %d in a row; the next in %g s", faults, seconds)
        services.stopping.wait(seconds)


def pause_seconds(faults: int) -> float:
    """Doubled with each fault in a row, bounded."""
    return min(_PAUSE_SECONDS * 2.0 ** min(faults - 1, 60), _PAUSE_MAX_SECONDS)


def clean_up(services: Services) -> None:
    """Removes the workspaces of attempts and inspections whose worker was killed."""
    with tracing.untraced():
        remove_abandoned(services.workspaces)
