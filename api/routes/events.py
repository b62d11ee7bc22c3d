from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse
from pydantic import BeforeValidator
from starlette.types import Receive, Scope, Send

from api import metrics
from api.deps import Caller, CallerDep, Resources, ResourcesDep
from api.routes.documented import IdPath, Limit, problems
from api.schemas.common import Page
from api.schemas.jobs import EventOut
from api.services import events, jobs
from api.services.watching import Hub
from store.transitions import ENDED

router = APIRouter(prefix="/v1/jobs/{id}/events", tags=["jobs"])

EventId = Annotated[int, Query(ge=0, le=2**63 - 1, description="The id of the last event that you have.")]
LastEventId = Annotated[
    int | None,
    BeforeValidator(lambda sent: sent or None),  # what is empty says nothing
    Header(ge=0, le=2**63 - 1, description="As `after`, and before it: what EventSource sends by itself."),
]

_STREAM = {
    "schema": {"type": "string"},
    "example": 'id: 12\nevent: phase\ndata: {"at":"2026-01-01T00:00:00Z","phase":"training"}\n\n',
}


class EventStream(EventSourceResponse):
    """Frees its watch at once, however the connection ends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics.stream_opened()
        try:
            await super().__call__(scope, receive, send)
        finally:
            metrics.stream_closed()
            await self.body_iterator.aclose()  # type: ignore[attr-defined]


@router.get(
    "",
    response_model=Page[EventOut],
    responses={
        200: {"content": {"text/event-stream": _STREAM}, "description": "Events, oldest first."},
        204: {"description": "A stream of an ended job, and `Last-Event-ID` is its last: do not come back."},
        **problems(404, 422),
    },
)
async def get_events(
    id: IdPath,
    request: Request,
    caller: CallerDep,
    resources: ResourcesDep,
    after: EventId = 0,
    limit: Limit = 50,
    last_event_id: LastEventId = None,
) -> Any:
    """What happened to the job: a stream of server-sent events, or with `Accept: application/json` a page.

    `status` and `phase` events have ids, and a stream goes on behind `Last-Event-ID` without loss or
    repetition; `progress` events have none and are sent about once a second. The stream ends with the job.
    `limit` is for pages alone.
    """
    start = after if last_event_id is None else last_event_id
    accept = request.headers.get("accept", "")
    if "application/json" in accept and "text/event-stream" not in accept:
        return await run_sync(_page, caller, resources, id, start, limit)
    if await run_sync(_all_seen, caller, resources, id, start):
        return Response(status_code=204)
    hub = request.app.state.hub
    assert isinstance(hub, Hub)
    # Proxies that collect an answer before they pass it on would hold events back.
    headers = {"Cache-Control": "no-cache", "Vary": "Accept", "X-Accel-Buffering": "no"}
    stream = events.stream(hub, resources.database, id, start, key_id=caller.key_id)
    return EventStream(stream, headers=headers)


def _page(caller: Caller, resources: Resources, id: str, after: int, limit: int) -> Page[EventOut]:
    with resources.database.read() as work:
        jobs.find(work, caller, id)
        rows, cursor = events.page(work, id, after, limit)
    return Page(items=[EventOut.of(row) for row in rows], next=cursor)


def _all_seen(caller: Caller, resources: Resources, id: str, after: int) -> bool:
    with resources.database.read() as work:
        job = jobs.find(work, caller, id)
        return job.status in ENDED and not work.jobs.events(id, after, 1)
