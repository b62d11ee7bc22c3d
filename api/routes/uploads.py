"""What checkpoints and datasets have in common: upload, look, delete."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import IdPath, problems, streamed
from api.services import uploads
from api.services.kinds import Kind
from api.services.quota import admitted
from api.services.receive import receive
from api.settings import settings_of


def upload_router(kind: Kind[Any, Any]) -> APIRouter:
    """POST, GET by id, DELETE; lists have filters of their own."""
    router = APIRouter(prefix=kind.path, tags=[f"{kind.noun}s"])

    @router.post(
        "",
        status_code=201,
        response_model=kind.out,
        summary=f"Upload a {kind.noun}",
        description=f"Uploads {kind.purpose}. The same bytes and fields again give the same {kind.noun}, "
        "with 200; one that was rejected is inspected again.",
        responses={
            200: {"model": kind.out, "description": "Known already."},
            **problems(400, 413, 415, 422),
        },
        openapi_extra=streamed(kind.fields, raw=True),
    )
    async def upload(request: Request, response: Response, caller: CallerDep, resources: ResourcesDep) -> Any:
        limit = settings_of(request).max_upload_bytes
        async with (
            admitted(request, resources, caller) as room,
            receive(request, resources.blobs, kind.fields, limit, room) as received,
        ):
            file = received.files["file"]
            row, new = await run_sync(uploads.save, resources, caller, kind, received.fields, file)
        response.status_code = 201 if new else 200
        response.headers["Location"] = kind.link(row.id)
        return kind.out.of(row)

    @router.get("/{id}", response_model=kind.out, summary=f"Get a {kind.noun}", responses=problems(404))
    def get(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Any:
        with resources.database.read() as work:
            return kind.out.of(uploads.find(kind.rows(work), caller, id))

    @router.delete("/{id}", status_code=204, summary=f"Delete a {kind.noun}", responses=problems(404, 409))
    def delete(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> None:
        """409 while an unfinished job uses it."""
        uploads.delete(resources, caller, kind, id)

    return router
