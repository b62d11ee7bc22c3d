"""A stored file as an answer: whole or in part, in flat memory, from wherever the blobs are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.services.conditions import is_unchanged
from api.services.ranges import asked_range
from store.blobs import BlobStore
from store.tables import Artifact


def download(request: Request, blobs: BlobStore, file: Artifact) -> Response:
    """Before any byte is sent raises BlobMissing, Unavailable, PreconditionFailed, RangeNotSatisfiable."""
    etag, modified = f'"{file.blob_sha256}"', format_datetime(file.created_at, usegmt=True)
    headers = {
        "ETag": etag,
        "Last-Modified": modified,
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    if is_unchanged(request.headers, etag, file.created_at):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # Ranges are for GET. If-Range compares strongly; where it names another file, all of this one is sent.
    partly = request.method == "GET" and request.headers.get("if-range", etag) in (etag, modified)
    part = asked_range(request.headers.get("range"), file.bytes) if partly else None
    start, stop = part or (0, file.bytes)
    status = HTTPStatus.OK
    headers |= {
        "Accept-Ranges": "bytes",
        "Content-Length": str(stop - start),
        "Content-Disposition": _attachment(file.name),
    }
    if part is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.bytes}"
    if request.method == "HEAD":
        blobs.size(file.blob_sha256)
        return Response(None, status, headers, file.media_type)
    pieces = blobs.stream(file.blob_sha256, start, stop)
    # The first is waited for: until then the answer can still be another.
    return StreamingResponse(_send(next(pieces, b""), pieces), status, headers, file.media_type)


async def _send(piece: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    store: Any = rest
    with closing(store):  # its connection is given back though the client has gone away
        while piece:
            yield piece
            piece = await run_sync(next, rest, b"")


def _attachment(name: str) -> str:
    quoted = quote(name)
    plain = quoted == name
    return f'attachment; filename="{name}"' if plain else f"attachment; filename*=utf-8''{quoted}"
