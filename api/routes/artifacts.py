from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from api.deps import CallerDep, ResourcesDep
from api.errors import RangeNotSatisfiable
from api.routes.documented import IdPath, problems
from api.schemas.common import Page
from api.schemas.jobs import ArtifactOut
from api.services import jobs
from store.errors import BlobMissing

router = APIRouter(prefix="/v1/jobs/{id}/artifacts", tags=["artifacts"])


@router.get("", responses=problems(404, 409))
def list_artifacts(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Page[ArtifactOut]:
    with resources.database.read() as work:
        rows = jobs.artifacts(work, caller, id)
    return Page(items=[ArtifactOut.of(row) for row in rows])


class BlobResponse(FileResponse):
    """A file with its sha256 as a strong ETag; a range outside it is a problem like any other."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # RFC 9110, 14.2: what is no range of bytes is ignored; Starlette would answer 400 in plain text.
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"range" or _is_range(value.decode("latin-1"))
        ]
        scope = {**scope, "headers": headers}

        async def refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                total = next(value for name, value in message["headers"] if name == b"content-range")
                raise RangeNotSatisfiable(
                    "The range lies outside the file.",
                    headers={"Content-Range": total.decode(), "Accept-Ranges": "bytes"},
                )
            await send(message)

        await super().__call__(scope, receive, refuse)


@router.head("/{name}", include_in_schema=False)
@router.get(
    "/{name}",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file."},
        206: {"content": {"application/octet-stream": {}}, "description": "The ranges asked for."},
        304: {"description": "Unchanged: `If-None-Match` names it."},
        **problems(404, 409, 416),
    },
)
def get_artifact(
    id: IdPath, name: str, request: Request, caller: CallerDep, resources: ResourcesDep
) -> Response:
    """The file. Its ETag is its sha256; `Range`, `If-Range` and `If-None-Match` are honoured."""
    with resources.database.read() as work:
        found = jobs.artifact(work, caller, id, name)
    etag = f'"{found.blob_sha256}"'
    headers = {
        "ETag": etag,
        "Last-Modified": _http_date(found.created_at),
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    if _matches(etag, request.headers.getlist("if-none-match")):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    path = resources.blobs.local_path(found.blob_sha256)
    if path is None:
        raise BlobMissing(f"The stored file of {name} is gone.")
    return BlobResponse(path, headers=headers, media_type=found.media_type, filename=found.name)


def _is_range(header: str) -> bool:
    unit, _, ranges = header.partition("=")
    if unit.strip().lower() != "bytes":
        return False
    for each in ranges.split(","):
        found = re.fullmatch(r"\s*(\d{0,18})-(\d{0,18})\s*", each, re.ASCII)
        if found is None or not (found[1] or found[2]):
            return False
        if found[1] and found[2] and int(found[1]) > int(found[2]):
            return False
    return True


def _http_date(time: datetime) -> str:
    return format_datetime(time, usegmt=True)


def _matches(etag: str, headers: Sequence[str]) -> bool:
    """If-None-Match compares weakly: `W/` makes no difference."""
    asked = [each.strip().removeprefix("W/") for header in headers for each in header.split(",")]
    return etag in asked or "*" in asked
