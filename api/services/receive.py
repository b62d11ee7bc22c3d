"""A file on its way in: from the socket to the blob store, in flat memory, hashed as it comes.

Two shapes of request: `multipart/form-data` with the fields beside the file, and
`application/octet-stream` with the file as the body and the fields in the query. Nothing is kept
of a request that turns out wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api import metrics
from api.drain import draining
from api.errors import Invalid, UnsupportedMediaType
from api.schemas.common import Fields
from api.services.multipart import FormReader, too_large
from api.services.quota import Room
from api.services.writing import writers
from store.blobs import BlobStore, BlobWriter

# Handed to a thread at once: large enough that the thread's cost vanishes, small enough to be flat.
_BATCH_BYTES = 1 << 20
# How a body ends early: its client goes away, or lets it stall for too long.
BROKEN_OFF = (ClientDisconnect, HTTPException)


@dataclass(frozen=True, slots=True)
class Received(Generic[Fields]):
    """Valid fields, and each file complete and durable; a file stays only if it is committed."""

    fields: Fields
    files: dict[str, BlobWriter]


@asynccontextmanager
async def receive(
    request: Request,
    blobs: BlobStore,
    schema: type[Fields],
    max_bytes: int,
    room: Room,
    *,
    optional_files: frozenset[str] = frozenset(),
    raw: bool = True,
) -> AsyncIterator[Received[Fields]]:
    """The part `file`, the `optional_files` that came, and the fields as `schema`.

    `max_bytes` is for each file, `room` for all of the body, whatever it announced. `raw` admits
    octet-stream. Raises Invalid, PayloadTooLarge, QuotaExceeded, UnsupportedMediaType.
    """
    stream = request.stream()
    async with writers(blobs) as open_writer:
        async with draining(request, stream):
            kind, options = parse_options_header(request.headers.get("content-type"))
            refuse_encoded(request.headers)
            if kind == b"multipart/form-data":
                for name in request.query_params:
                    raise Invalid.one(name, "extra_forbidden", "with a form, fields are parts of the form")
                boundary = options.get(b"boundary", b"")
                received = await _receive_form(
                    open_writer, stream, boundary, schema, max_bytes, room, optional_files
                )
            elif raw and kind == b"application/octet-stream":
                received = await _receive_raw(open_writer, request, stream, schema, max_bytes, room)
            else:
                accepted = "multipart/form-data" + (" or application/octet-stream" if raw else "")
                raise UnsupportedMediaType(f"The Content-Type must be {accepted}.")
        for name, writer in received.files.items():
            if writer.size == 0:
                raise Invalid.one(name, "empty_file", "the file is empty")
            await run_sync(writer.sync)
        yield received


async def _receive_raw(
    open_writer: Callable[[], BlobWriter],
    request: Request,
    stream: AsyncIterator[bytes],
    schema: type[Fields],
    max_bytes: int,
    room: Room,
) -> Received[Fields]:
    query = request.query_params.multi_items()
    names = [name for name, _ in query]
    for name in names:
        if names.count(name) > 1:
            raise Invalid.one(name, "duplicate_field", "given more than once")
    fields = validated(schema, dict(query))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large(max_bytes)
    writer = await run_sync(open_writer)

    def write(data: bytes) -> None:
        if writer.size + len(data) > max_bytes:
            raise too_large(max_bytes)
        writer.write(data)

    await pump(stream, _within(room, write))
    return Received(fields, {"file": writer})


async def _receive_form(
    open_writer: Callable[[], BlobWriter],
    stream: AsyncIterator[bytes],
    boundary: bytes,
    schema: type[Fields],
    max_bytes: int,
    room: Room,
    optional_files: frozenset[str],
) -> Received[Fields]:
    reader = FormReader(
        boundary,
        text_fields=frozenset(schema.model_fields),
        file_fields=optional_files | {"file"},
        open_file=open_writer,
        max_bytes=max_bytes,
    )
    await pump(stream, _within(room, reader.feed))
    reader.finish()
    fields = validated(schema, reader.fields)
    if "file" not in reader.files:
        raise Invalid.one("file", "missing", "the form has no part named file")
    return Received(fields, reader.files)


def _within(room: Room, feed: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Feeds no more than there is room for. Raises QuotaExceeded."""
    received = 0

    def counted(data: bytes) -> None:
        nonlocal received
        received += len(data)
        room.check_body(received)
        feed(data)

    return counted


async def pump(stream: AsyncIterator[bytes], feed: Callable[[bytes], None]) -> None:
    """Raises one of BROKEN_OFF when the body did; whatever arrived before has been fed."""
    batch: list[bytes] = []
    size = 0
    try:
        async for chunk in stream:
            batch.append(chunk)
            size += len(chunk)
            metrics.uploaded(len(chunk))
            if size >= _BATCH_BYTES:
                await run_sync(feed, b"".join(batch))
                batch, size = [], 0
    except BROKEN_OFF:
        await run_sync(feed, b"".join(batch))
        raise
    if size:
        await run_sync(feed, b"".join(batch))


def refuse_encoded(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedMediaType."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the file as it is, without a Content-Encoding.")


def validated(schema: type[Fields], values: Mapping[str, str]) -> Fields:
    """Raises Invalid."""
    try:
        fields = schema.model_validate(values)
        fields.check()
    except ValidationError as error:
        raise Invalid.from_pydantic(error.errors()) from None
    return fields
