from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from api.deps import CallerDep, ResourcesDep
from api.routes.documented import IdPath, problems
from api.schemas.common import Page
from api.schemas.jobs import ArtifactOut
from api.services import jobs
from api.services.downloads import download

router = APIRouter(prefix="/v1/jobs/{id}/artifacts", tags=["artifacts"])


@router.get("", responses=problems(404, 409))
def list_artifacts(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Page[ArtifactOut]:
    with resources.database.read() as work:
        rows = jobs.artifacts(work, caller, id)
    return Page(items=[ArtifactOut.of(row) for row in rows])


@router.head("/{name}", include_in_schema=False)
@router.get(
    "/{name}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file."},
        206: {"content": {"application/octet-stream": {}}, "description": "The ranges asked for."},
        304: {"description": "Unchanged: `If-None-Match` names it, or `If-Modified-Since` is not before it."},
        **problems(404, 409, 412, 416),
    },
)
def get_artifact(
    id: IdPath, name: str, request: Request, caller: CallerDep, resources: ResourcesDep
) -> Response:
    """The file. Its ETag is its sha256; ranges and preconditions are honoured as RFC 9110 says."""
    with resources.database.read() as work:
        found = jobs.artifact(work, caller, id, name)
    return download(request, resources.blobs, found)
