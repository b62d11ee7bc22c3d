from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from api.metrics import REGISTRY
from api.routes.health import watchers

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """For Prometheus, in its text format."""
    state = request.app.state.gauges
    assert isinstance(state, CollectorRegistry)
    text = await run_sync(
        lambda: generate_latest(REGISTRY) + generate_latest(state), limiter=watchers(request)
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)
