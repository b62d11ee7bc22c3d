"""Resumable uploads: begun, gone on with, ended as a checkpoint or dataset, given up.

All state is in the database and the blob store, so that any process may take any request. What one
request brings is a blob, and a part of the upload once it is appended under the upload's row lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from api.deps import Caller, Resources
from api.errors import Expired, Invalid, OffsetMismatch, PayloadTooLarge
from api.schemas.common import FormFields
from api.services import quota
from api.services.dispatch import announce_upload
from api.services.kinds import KINDS, Kind
from api.services.multipart import too_large
from api.services.receive import validated
from api.services.tus import IGNORED_METADATA
from api.services.uploads import Content, in_place, made, not_found, put
from store.blobs import BlobRef, BlobStore, BlobWriter
from store.errors import BlobMissing
from store.garbage import delete_now
from store.naming import hold_blobs
from store.tables import PartialUpload, UploadPart, new_id, utc_now

# From the last byte that came.
LIFETIME = timedelta(hours=24)
# As many as S3's multipart uploads have; one byte a request must not become a table of its own.
MAX_PARTS = 10_000
_CHUNK_BYTES = 1 << 20
# Uploads that this process is making whole: who only looks need not do it a second time.
_joining: set[str] = set()


def create(
    resources: Resources, caller: Caller, length: int, metadata: dict[str, str], max_bytes: int
) -> PartialUpload:
    """Refuses at once what a plain upload would refuse at its end.

    Raises Invalid, PayloadTooLarge, QuotaExceeded, TooMany.
    """
    if length > max_bytes:
        raise too_large(max_bytes)
    if length == 0:
        raise Invalid.one("file", "empty_file", "the file is empty")
    kind, _ = _meant(metadata)
    with resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        quota.check_begun(work, resources.access, caller)
        quota.check_room(work, resources.access, caller, length)
        return work.partial_uploads.add(
            PartialUpload(
                id=new_id("up"),
                owner=caller.owner,
                kind=kind.noun,
                fields=metadata,
                length=length,
                offset=0,
                expires_at=utc_now() + LIFETIME,
            )
        )


def find(resources: Resources, caller: Caller, id: str) -> PartialUpload:
    """Raises NotFound, and Expired."""
    with resources.database.read() as work:
        return _alive(work.partial_uploads.get(id, caller.owner), id)


def settled(resources: Resources, caller: Caller, id: str) -> PartialUpload:
    """As `find`, and an upload whose end was broken off is brought to it, unless that is being done here."""
    row = find(resources, caller, id)
    if row.offset == row.length and row.resource_id is None and id not in _joining:
        return finish(resources, caller, id)
    return row


def room(resources: Resources, caller: Caller, id: str, offset: int) -> int:
    """How many bytes may come at `offset`. Raises OffsetMismatch when they would not fit on."""
    with resources.database.read() as work:
        row = _alive(work.partial_uploads.get(id, caller.owner), id)
        _refuse_elsewhere(row, offset)
        if work.partial_uploads.count_parts(id) >= MAX_PARTS:
            raise PayloadTooLarge(f"An upload may come in {MAX_PARTS} parts at most. Send larger ones.")
    return row.length - row.offset


def append(resources: Resources, caller: Caller, id: str, offset: int, part: BlobWriter) -> PartialUpload:
    """The upload with this part. Of two requests for one place the first wins. Raises OffsetMismatch."""
    brought = [part] if part.size else []
    with in_place(resources, *brought), resources.database.write() as work:
        row = _alive(work.partial_uploads.hold(id, caller.owner), id)
        _refuse_elsewhere(row, offset)
        if brought:
            hold_blobs(work, resources.blobs, {part.sha256: part.commit})
            work.partial_uploads.append(row, part.sha256, part.size, utc_now() + LIFETIME)
    return row


def finish(resources: Resources, caller: Caller, id: str) -> PartialUpload:
    """Makes the checkpoint or dataset of a complete upload, once, however often it is asked for.

    Whatever breaks in between leaves the upload as it was, and this may be called again.
    """
    with resources.database.read() as work:
        row = _alive(work.partial_uploads.get(id, caller.owner), id)
        parts = work.partial_uploads.parts(id)
    if row.resource_id is not None or row.offset < row.length:
        return row
    _joining.add(id)
    try:
        return _finish(resources, caller, id, parts)
    except BlobMissing:  # who was first has deleted the parts
        row = find(resources, caller, id)
        if row.resource_id is None:
            raise
        return row
    finally:
        _joining.discard(id)


def _finish(resources: Resources, caller: Caller, id: str, parts: Sequence[UploadPart]) -> PartialUpload:
    with resources.blobs.writer() as joined:
        content = _joined(resources, parts, joined)
        with in_place(resources, content) as placed, resources.database.write() as work:
            row = _alive(work.partial_uploads.hold(id, caller.owner), id)
            if row.resource_id is not None:  # and that may be deleted by now
                placed.needed = False
                return row
            kind, fields = _meant(row.fields)
            # Its length has counted since it began, so there is room.
            resource, _ = put(work, resources, kind, made(caller, kind, fields, content), content)
            work.partial_uploads.complete(row, resource.id)
    announce_upload(resources.queue, resource)
    _drop_blobs(resources, parts)
    return row


def terminate(resources: Resources, caller: Caller, id: str) -> None:
    """What has become a checkpoint or dataset stays. Raises NotFound."""
    with resources.database.write() as work:
        row = work.partial_uploads.hold(id, caller.owner)
        if row is None:
            raise not_found("upload", id)
        parts = work.partial_uploads.parts(id)
        work.partial_uploads.delete(id)
    _drop_blobs(resources, parts)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Bytes that a part has brought whole: there is nothing to join, and nothing to write them from."""

    blobs: BlobStore
    sha256: str
    size: int

    def commit(self) -> BlobRef:
        """Raises BlobMissing."""
        return BlobRef(self.sha256, self.blobs.size(self.sha256))


def _joined(resources: Resources, parts: Sequence[UploadPart], joined: BlobWriter) -> Content:
    if len(parts) == 1:
        return _Stored(resources.blobs, parts[0].blob_sha256, parts[0].bytes)
    for part in parts:
        with resources.blobs.open(part.blob_sha256) as source:
            while chunk := source.read(_CHUNK_BYTES):
                joined.write(chunk)
    return joined


def _drop_blobs(resources: Resources, parts: Sequence[UploadPart]) -> None:
    delete_now(resources.database, resources.blobs, [part.blob_sha256 for part in parts])


def _meant(metadata: Mapping[str, str]) -> tuple[Kind[Any, Any], FormFields]:
    """What the upload is to become. Raises Invalid."""
    noun = metadata.get("kind", "")
    if noun not in KINDS:
        raise Invalid.one("kind", "literal_error", f"must be one of {', '.join(KINDS)}")
    given = {key: value for key, value in metadata.items() if key not in IGNORED_METADATA | {"kind"}}
    return KINDS[noun], validated(KINDS[noun].fields, given)


def _alive(row: PartialUpload | None, id: str) -> PartialUpload:
    if row is None:
        raise not_found("upload", id)
    if row.expires_at <= utc_now():
        raise Expired(f"The upload {id} was not gone on with for too long. Begin again.")
    return row


def _refuse_elsewhere(row: PartialUpload, offset: int) -> None:
    if row.offset != offset:
        raise OffsetMismatch(f"The upload goes on at {row.offset}, not at {offset}.")
