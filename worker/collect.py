"""Deletes bytes that nobody names any longer. Any number of these may run at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

from store.garbage import delete_unused
from worker.services import Services

log = logging.getLogger(__name__)

# How many blobs one query asks for.
_BATCH = 500
# Uploads write often: what has not grown for a day belongs to no one.
_ABANDONED_SECONDS = 24 * 3600.0


def collect(services: Services) -> int:
    """Deletes every blob that no row names and that is older than the grace period; returns how many.

    Most blobs are in use, and are left without their lock ever being taken. Whoever writes bytes and
    names them only later has the grace period for that, and makes sure when it names them.
    """
    grace = services.settings.collect_grace_seconds
    deleted = 0
    for sha256 in _unnamed(services, grace):
        if delete_unused(services.database, services.blobs, sha256, older_than=grace):
            log.info("blob %s: deleted, nobody names it", sha256)
            deleted += 1
    abandoned = services.blobs.remove_abandoned(_ABANDONED_SECONDS)
    if deleted or abandoned:
        log.info("%d blobs and %d abandoned writes deleted", deleted, abandoned)
    return deleted


def _unnamed(services: Services, grace: float) -> Iterator[str]:
    found = (sha256 for sha256, _ in services.blobs.list_older(grace))
    while batch := list(islice(found, _BATCH)):
        with services.database.read() as work:
            named = work.blobs.in_use(batch)
        yield from (sha256 for sha256 in batch if sha256 not in named)
