from __future__ import annotations

from fastapi import APIRouter, Request

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import problems
from api.schemas.limits import LimitsOut
from api.services import quota
from api.settings import settings_of

router = APIRouter(prefix="/v1", tags=["limits"])


@router.get("/limits", responses=problems())
async def get_limits(request: Request, caller: CallerDep, resources: ResourcesDep) -> LimitsOut:
    """Who the key is, what that owner may take, and what is taken."""
    return await quota.limits(resources, caller, settings_of(request).max_upload_bytes)
