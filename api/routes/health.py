from __future__ import annotations

from http import HTTPStatus

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from api.errors import problem
from api.routes.documented import problems
from api.schemas.health import Alive, Ready
from api.services.health import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz", response_model=Ready, responses=problems())
async def readyz(request: Request) -> Ready | Response:
    """Database, its migrations, broker and blobs; 503 with the same `checks` when one is not there.

    Answers within three seconds, also when a part hangs.
    """
    health = request.app.state.health
    assert isinstance(health, Health)
    checks = await run_sync(health.check, limiter=watchers(request))
    down = [name for name, check in checks.items() if not check.ok]
    if down:
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "service_unavailable",
            f"Not ready: {', '.join(down)}.",
            headers={"Retry-After": "2"},
            checks={name: check.model_dump() for name, check in checks.items()},
        )
    return Ready(checks=checks)


def watchers(request: Request) -> CapacityLimiter:
    """Threads of their own: all others may be waiting for a part that hangs."""
    limiter = request.app.state.watchers
    assert isinstance(limiter, CapacityLimiter)
    return limiter
