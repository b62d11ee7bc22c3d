from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response

from api.deps import ResourcesDep
from api.errors import problem
from api.routes.documented import problems
from api.schemas.health import Alive, Ready
from api.services import health

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz", response_model=Ready, responses=problems())
def readyz(resources: ResourcesDep) -> Ready | Response:
    """Database, broker and blobs answer; 503 with the same `checks` when one does not."""
    checks = health.check_all(resources)
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
