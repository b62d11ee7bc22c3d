"""Tells of ended jobs where their owners want to hear of it: signed, and again until somebody listens.

Signatures follow https://www.standardwebhooks.com: `webhook-id` is the same in every try of one
delivery, `webhook-timestamp` is the try's own, `webhook-signature` is `v1,` and the base64 of
HMAC-SHA256(secret, "id.timestamp.body").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterable
from datetime import timedelta

import anyio
import anyio.to_thread

from store.addresses import Network
from store.tables import WebhookDelivery, utc_now
from worker.outbound import post
from worker.services import Services

_AT_ONCE = 20
_LEASE = timedelta(seconds=60)
_GONE = 410
# After each failed try; then it is given up.
_PAUSES = tuple(timedelta(seconds=pause) for pause in (5, 60, 300, 1800, 7200, 21600, 43200))

log = logging.getLogger(__name__)


def deliver_due(services: Services) -> None:
    """One try of each delivery that is due, until no more are or this worker is told to stop. Several workers
    may do so at once."""
    while _deliver_some(services) == _AT_ONCE and not services.stopping.is_set():
        log.debug("more deliveries are due")


def _deliver_some(services: Services) -> int:
    with services.database.write() as work:
        rows = work.webhooks.take_due(utc_now(), _AT_ONCE, _LEASE)
        secrets = {row.owner: work.webhooks.secret(row.owner) for row in rows}
    if rows:
        anyio.run(_try_all, services, rows, secrets)
    return len(rows)


def headers(id: str, secret: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What a receiver checks the message by."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "user-agent": "zsq",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


async def _try_all(services: Services, rows: Iterable[WebhookDelivery], secrets: dict[str, str]) -> None:
    """Each one's end is written as it comes: who is quick does not wait for who is slow."""
    writers = anyio.CapacityLimiter(1)

    async def one(row: WebhookDelivery) -> None:
        fault = await _try(row, secrets[row.owner], services.store.webhook_allowed_networks)
        try:
            await anyio.to_thread.run_sync(_conclude, services, row, fault, limiter=writers)
        except Exception:  # whatever a driver raises: the others' ends are written all the same
            log.exception("%s: could not write what became of %s", row.job_id, row.id)

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(one, row)


async def _try(row: WebhookDelivery, secret: str, allowed: tuple[Network, ...]) -> str | int | None:
    """None for success, a status that is none, or what went wrong."""
    body = json.dumps(row.payload, separators=(",", ":")).encode()
    try:
        status = await post(row.url, body, headers(row.id, secret, int(time.time()), body), allowed)
    except Exception as error:  # whatever resolving, TLS and strangers' servers come up with
        return f"{type(error).__name__}: {error}".rstrip(": ")
    return None if 200 <= status < 300 else status


def _conclude(services: Services, row: WebhookDelivery, fault: str | int | None) -> None:
    if fault is None:
        with services.database.write() as work:
            work.webhooks.delivered(row.id, row.attempts)
        log.info("%s: %s delivered", row.job_id, row.id)
        return
    text = f"answered {fault}" if isinstance(fault, int) else fault
    over = fault == _GONE or row.attempts > len(_PAUSES)
    again_at = None if over else utc_now() + _PAUSES[row.attempts - 1]
    with services.database.write() as work:
        work.webhooks.failed(row.id, row.attempts, text, again_at)
    log.warning("%s: %s %s: %s", row.job_id, row.id, "given up" if over else "to be sent again", text)
