from __future__ import annotations

from fastapi import APIRouter

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import IdPath, problems
from api.schemas.common import Page
from api.schemas.webhooks import DeliveryOut, WebhookSecretOut
from api.services import jobs, webhooks

router = APIRouter(prefix="/v1", tags=["webhooks"])


@router.get("/webhooks/secret", responses=problems())
def get_secret(caller: CallerDep, resources: ResourcesDep) -> WebhookSecretOut:
    """What the caller's webhooks are signed with; made when first asked for."""
    return WebhookSecretOut(secret=webhooks.secret(resources, caller))


@router.post("/webhooks/secret", responses=problems())
def renew_secret(caller: CallerDep, resources: ResourcesDep) -> WebhookSecretOut:
    """A new one in place of the old; whatever is sent from now on is signed with it."""
    return WebhookSecretOut(secret=webhooks.secret(resources, caller, renewed=True))


@router.get("/jobs/{id}/deliveries", responses=problems(404))
def list_deliveries(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Page[DeliveryOut]:
    """What became of the word of this job's end; none until it has ended."""
    with resources.database.read() as work:
        rows = jobs.deliveries(work, caller, id)
    return Page(items=[DeliveryOut.of(row) for row in rows])
