"""A job's events as they happen, over as many connections as that takes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx

from zsq.errors import ClientError
from zsq.event_source import EventSource
from zsq.models import JobEvent
from zsq.transport import Transport

_MEDIA_TYPE = "text/event-stream"


def follow(transport: Transport, job_id: str, *, after: str | None, patience: float) -> Iterator[JobEvent]:
    """Those behind the id `after`, until the job has ended.

    A connection that ends before the job does (the server restarts, a proxy lets none live for long) is
    followed by another, which goes on behind the last id. Raises `ApiError` when the server refuses, and
    `ConnectionLost` when nobody answers for `patience` seconds.
    """
    source = EventSource(after or "")
    while True:
        headers = {"accept": _MEDIA_TYPE}
        if source.last_id:
            headers["last-event-id"] = source.last_id
        path = f"/v1/jobs/{job_id}/events"
        try:
            with transport.stream("GET", path, patience=patience, headers=headers) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("content-type", "").startswith(_MEDIA_TYPE):
                    raise ClientError(f"{transport.base_url} answered with something else than events.")
                for message in source.read(response.iter_bytes()):
                    data = json.loads(message.data)
                    event = JobEvent.from_json(data, event=message.event, id=message.id or None)
                    yield event
                    if event.ended:
                        return
        except httpx.TransportError:
            pass  # as when it ends without an error: the loop goes on
        transport.sleep(source.retry)
