"""Jobs, one after another: whose turn it is, and what dead workers leave in the folder of workspaces."""

from __future__ import annotations

from collections.abc import Collection

from store import tracing
from worker.attempt import ENTRY, Attempt
from worker.services import Services
from worker.workspace import remove_abandoned


def run_jobs(services: Services, devices: Collection[str], *, entry: str = ENTRY) -> None:
    """Runs every job that may run on `devices` (any, cpu, gpu), until none is left or this worker is told to
    stop. Not the one alone that a message spoke of: so a message that got lost is made good by the next.
    """
    limit = services.settings.owner_running_jobs
    while not services.stopping.is_set():
        with services.database.write() as work:
            claim = work.jobs.claim_next(services.name, services.store.lease_seconds, devices, limit)
        if claim is None:
            return
        Attempt(services, claim, entry).run()


def clean_up(services: Services) -> None:
    """Removes the workspaces of attempts and inspections whose worker was killed."""
    with tracing.untraced():
        remove_abandoned(services.workspaces)
