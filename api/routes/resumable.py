"""Resumable uploads: tus 1.0 (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import format_datetime
from http import HTTPStatus

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from api.deps import Caller, CallerDep, Resources, ResourcesDep
from api.drain import draining
from api.errors import PayloadTooLarge, UnsupportedMediaType, UnsupportedTusVersion
from api.routes.documented import After, IdPath, Limit, header_parameters, problems
from api.schemas.common import Page
from api.schemas.resumable import PartialUploadOut
from api.services import resumable, tus
from api.services.kinds import KINDS
from api.services.quota import admitted
from api.services.receive import BROKEN_OFF, pump, refuse_encoded
from api.services.writing import writers
from api.settings import settings_of
from api.tus_version import PREFIX
from store.tables import PartialUpload


async def _same_version(request: Request) -> None:
    """Every request must name the protocol's version, but those that only ask."""
    exempt = request.method in ("OPTIONS", "GET") or _overrides_nothing(request)
    if request.headers.get("tus-resumable") != tus.VERSION and not exempt:
        raise UnsupportedTusVersion(
            f"Tus-Resumable must be {tus.VERSION}.", headers={"Tus-Version": tus.VERSION}
        )


def _overrides_nothing(request: Request) -> bool:
    """POST to an upload is there for clients that name another method; to others it is not."""
    named = request.headers.get("x-http-method-override")
    return request.method == "POST" and "id" in request.path_params and named is None


router = APIRouter(prefix=PREFIX, tags=["resumable uploads"], dependencies=[Depends(_same_version)])

_PART = {"requestBody": {"content": {tus.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
_VERSION = {"Tus-Resumable": f"`{tus.VERSION}`."}
_CHECKSUM = {"Upload-Checksum": f"Optional: one of {tus.ALGORITHMS}, and the body's sum in base64."}
_CREATION = {
    "Upload-Length": "Bytes of the whole file.",
    "Upload-Metadata": f"`kind` ({' or '.join(KINDS)}) and the fields of the form, each `key base64`, with "
    "commas between. `filename` and `filetype` are ignored.",
}
_OFFSET = {"Upload-Offset": "Where these bytes go: the offset that the server has."}


@router.options("", status_code=204, responses=problems())
def upload_options(request: Request) -> Response:
    """What of tus this server knows."""
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": tus.EXTENSIONS,
        "Tus-Max-Size": str(settings_of(request).max_upload_bytes),
        "Tus-Checksum-Algorithm": tus.ALGORITHMS,
    }
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)


@router.options("/{id}", status_code=204, responses=problems(404))
def options_of_one_upload(id: IdPath, request: Request) -> Response:
    """The same, whether there is such an upload or not."""
    return upload_options(request)


@router.get("", responses=problems(422))
def list_uploads(
    caller: CallerDep, resources: ResourcesDep, limit: Limit = 50, after: After = None
) -> Page[PartialUploadOut]:
    """Those that are begun and neither ended nor expired, newest first."""
    with resources.database.read() as work:
        rows, cursor = work.partial_uploads.page(caller.owner, limit, after)
    return Page(items=[PartialUploadOut.of(row) for row in rows], next=cursor)


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=problems(400, 409, 412, 413, 415, 422, 460),
    openapi_extra={**_PART, **header_parameters(_VERSION | _CREATION, _CHECKSUM)},
)
async def create_upload(request: Request, caller: CallerDep, resources: ResourcesDep) -> Response:
    """Begins an upload, whose address is in `Location`; its first bytes may come along.

    If those are refused or break off, nothing is begun.
    """
    stream = request.stream()
    async with draining(request, stream):
        length = tus.count(request.headers, "Upload-Length")
        metadata = tus.metadata(request.headers.get("Upload-Metadata", ""))
        limit = settings_of(request).max_upload_bytes
        row = await run_sync(resumable.create, resources, caller, length, metadata, limit)
    if tus.brings_bytes(request.headers):
        try:
            async with admitted(request, resources, caller, has_room=True):
                row = await _receive(request, stream, resources, caller, row.id, 0)
        except Exception:  # without the answer nobody learns its address
            await run_sync(resumable.terminate, resources, caller, row.id)
            raise
    headers = {"Location": f"{PREFIX}/{row.id}", **_progress(row)}
    return Response(status_code=HTTPStatus.CREATED, headers=headers)


@router.head(
    "/{id}",
    response_class=Response,
    responses=problems(404, 410, 412),
    openapi_extra=header_parameters(_VERSION),
)
def get_upload_offset(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Response:
    """How far it has come, in `Upload-Offset`."""
    row = resumable.find(resources, caller, id)
    headers = {
        **_progress(row),
        "Upload-Length": str(row.length),
        "Upload-Metadata": tus.encoded(row.fields),
        "Cache-Control": "no-store",
    }
    return Response(headers=headers)


@router.get("/{id}", responses=problems(404, 410))
def get_upload(
    id: IdPath, response: Response, caller: CallerDep, resources: ResourcesDep
) -> PartialUploadOut:
    """How far it has come, and the checkpoint or dataset that it has become."""
    response.headers["Cache-Control"] = "no-store"
    return PartialUploadOut.of(resumable.settled(resources, caller, id))


@router.patch(
    "/{id}",
    status_code=204,
    response_class=Response,
    responses=problems(400, 404, 409, 410, 412, 413, 415, 422, 460),
    openapi_extra={**_PART, **header_parameters(_VERSION | _OFFSET, _CHECKSUM)},
)
async def append_to_upload(
    id: IdPath, request: Request, caller: CallerDep, resources: ResourcesDep
) -> Response:
    """Goes on with it. What arrives before a connection breaks or stalls is kept, unless a checksum
    came with it.

    The last bytes make the checkpoint or dataset, whose address is in `Zsq-Resource`; without any, at the
    end, that address is given again, once it is there.
    """
    stream = request.stream()
    async with draining(request, stream):
        at = tus.count(request.headers, "Upload-Offset")
    async with admitted(request, resources, caller, has_room=True):
        row = await _receive(request, stream, resources, caller, id, at)
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=_progress(row))


@router.delete(
    "/{id}",
    status_code=204,
    response_class=Response,
    responses=problems(404, 412),
    openapi_extra=header_parameters(_VERSION),
)
def terminate_upload(id: IdPath, caller: CallerDep, resources: ResourcesDep) -> Response:
    """Gives it up. The checkpoint or dataset that it has become stays."""
    resumable.terminate(resources, caller, id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/{id}", include_in_schema=False)
async def overridden(id: IdPath, request: Request, caller: CallerDep, resources: ResourcesDep) -> Response:
    """tus lets clients that can send neither PATCH nor DELETE name it in a header."""
    match request.headers.get("x-http-method-override"):
        case "PATCH":
            return await append_to_upload(id, request, caller, resources)
        case "DELETE":
            return await run_sync(terminate_upload, id, caller, resources)
        case _:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)


async def _receive(
    request: Request,
    stream: AsyncIterator[bytes],
    resources: Resources,
    caller: Caller,
    id: str,
    at: int,
) -> PartialUpload:
    async with draining(request, stream):
        if not tus.brings_bytes(request.headers):
            raise UnsupportedMediaType(f"The Content-Type must be {tus.MEDIA_TYPE}.")
        refuse_encoded(request.headers)
        checksum = tus.Checksum.of(request.headers.get("Upload-Checksum"))
        room = await run_sync(resumable.room, resources, caller, id, at)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > room:
            raise _too_much(room)
        row = await _append(stream, resources, caller, id, at, room, checksum)
    if row.offset == row.length:
        end = resumable.settled if at == row.length else resumable.finish
        row = await run_sync(end, resources, caller, id)
    return row


async def _append(
    stream: AsyncIterator[bytes],
    resources: Resources,
    caller: Caller,
    id: str,
    at: int,
    room: int,
    checksum: tus.Checksum | None,
) -> PartialUpload:
    async with writers(resources.blobs) as open_writer:
        part = await run_sync(open_writer)

        def write(data: bytes) -> None:
            if part.size + len(data) > room:
                raise _too_much(room)
            part.write(data)
            if checksum is not None:
                checksum.running.update(data)

        def keep() -> PartialUpload:
            part.sync()
            return resumable.append(resources, caller, id, at, part)

        try:
            await pump(stream, write)
        except BROKEN_OFF:
            if checksum is None:
                await run_sync(keep)
            raise
        if checksum is not None:
            checksum.verify()
        return await run_sync(keep)


def _too_much(room: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"Of this upload {room} bytes are missing, and more were sent.")


def _progress(row: PartialUpload) -> dict[str, str]:
    headers = {
        "Upload-Offset": str(row.offset),
        "Upload-Expires": format_datetime(row.expires_at, usegmt=True),
    }
    if row.resource_id is not None:
        headers["Zsq-Resource"] = KINDS[row.kind].link(row.resource_id)
    return headers
