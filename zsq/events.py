"""A job's events as they happen, over as many connections as that takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import httpx

from zsq.errors import ClientError, ConnectionLost
from zsq.event_source import EventSource, Message
from zsq.models import JobEvent
from zsq.transport import Transport

_MEDIA_TYPE = "text/event-stream"


def follow(transport: Transport, job_id: str, *, after: str | None, patience: float) -> Iterator[JobEvent]:
    """Those behind the id `after`, until the job has ended.

    A connection that ends before the job does (the server restarts, a proxy lets none live for long) is
    followed by another, which goes on behind the last id. Raises `ApiError` when the server refuses,
    `ConnectionLost` when nobody answers for `patience` seconds, or only with streams on which nothing comes,
    and `ClientError` when what comes are no events of a job.
    """
    source, silence = EventSource(after or ""), _Silence(transport.base_url, patience)
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
                for message in source.read(silence.broken_by(response.iter_bytes())):
                    event = _parsed(message, transport.base_url)
                    yield event
                    if event.ended:
                        return
        except httpx.TransportError:
            pass  # as when it ends without an error: the loop goes on
        silence.check()
        transport.sleep(source.retry)


class _Silence:
    """How long connections have brought not even a comment, which this server sends to pass the time.

    What comes is measured by bytes: of a job that waits, there may be no news for hours.
    """

    def __init__(self, base_url: str, patience: float) -> None:
        self._base_url = base_url
        self._patience = patience
        self._end = time.monotonic() + patience

    def broken_by(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        came = False
        try:
            for chunk in chunks:
                came = True
                yield chunk
        finally:  # not with each chunk: its reader may take its time
            if came:
                self._end = time.monotonic() + self._patience

    def check(self) -> None:
        """Raises ConnectionLost."""
        if time.monotonic() > self._end:
            raise ConnectionLost(
                f"{self._base_url} opens streams of events, and nothing comes on them. "
                "Does a proxy in between hold them back?"
            )


def _parsed(message: Message, base_url: str) -> JobEvent:
    """Raises ClientError."""
    try:
        return JobEvent.from_json(json.loads(message.data), event=message.event, id=message.id or None)
    except (ValueError, TypeError, AttributeError) as error:
        raise ClientError(f"{base_url} sent an event that cannot be read: {message.data[:200]}") from error
