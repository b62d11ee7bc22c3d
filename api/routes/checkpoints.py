from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import After, IdPath, Limit, problems, streamed
from api.schemas.common import Page
from api.schemas.uploads import CheckpointFields, CheckpointOut, State
from api.services import uploads
from api.services.receive import receive
from api.settings import settings_of

router = APIRouter(prefix="/v1/checkpoints", tags=["checkpoints"])


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": CheckpointOut, "description": "Known already."},
        **problems(400, 413, 415, 422),
    },
    openapi_extra=streamed(CheckpointFields, raw=True),
)
async def upload_checkpoint(
    request: Request, response: Response, caller: CallerDep, resources: ResourcesDep
) -> CheckpointOut:
    """Uploads a state dict. The same bytes and fields again give the same checkpoint, with 200."""
    limit = settings_of(request).max_upload_bytes
    async with receive(request, resources.blobs, CheckpointFields, limit) as received:
        row, new = await run_sync(
            uploads.save_checkpoint, resources, caller, received.fields, received.files["file"]
        )
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/checkpoints/{row.id}"
    return CheckpointOut.of(row)


@router.get("", responses=problems(422))
def list_checkpoints(
    caller: CallerDep,
    resources: ResourcesDep,
    limit: Limit = 50,
    after: After = None,
    state: State | None = None,
    architecture: Annotated[str | None, Query(pattern=r"^[\w./-]{1,128}$")] = None,
) -> Page[CheckpointOut]:
    with resources.database.read() as work:
        rows, cursor = work.checkpoints.page(
            caller.owner, limit, after, state=state, architecture=architecture
        )
    return Page(items=[CheckpointOut.of(row) for row in rows], next=cursor)


@router.get("/{id}", responses=problems(404))
def get_checkpoint(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> CheckpointOut:
    with resources.database.read() as work:
        return CheckpointOut.of(uploads.find(work.checkpoints, caller, id))


@router.delete("/{id}", status_code=204, responses=problems(404, 409))
def delete_checkpoint(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> None:
    """409 while an unfinished job uses it."""
    uploads.delete(resources, lambda work: work.checkpoints, caller, id)
