"""Resumable uploads: how far each has come, and what became of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel

from api.schemas.common import Time
from store.tables import PartialUpload


class PartialUploadOut(BaseModel):
    """`offset` of `length` bytes have come; joined, they are the checkpoint or dataset in `links`.

    `metadata` is what `Upload-Metadata` said when it was begun, but for `kind`.
    """

    id: str
    kind: Literal["checkpoint", "dataset"]
    state: Literal["receiving", "joining", "complete"]
    offset: int
    length: int
    metadata: dict[str, str]
    resource_id: str | None
    created_at: Time
    expires_at: Time
    links: dict[str, str]

    @classmethod
    def of(cls, row: PartialUpload) -> Self:
        links = {"self": f"/v1/uploads/{row.id}"}
        if row.resource_id is not None:
            links["resource"] = f"/v1/{row.kind}s/{row.resource_id}"
        same = ("id", "kind", "offset", "length", "resource_id", "created_at", "expires_at")
        return cls(
            **{name: getattr(row, name) for name in same},
            state=_state(row),
            metadata={name: value for name, value in row.fields.items() if name != "kind"},
            links=links,
        )


def _state(row: PartialUpload) -> Literal["receiving", "joining", "complete"]:
    if row.resource_id is not None:
        return "complete"
    return "joining" if row.offset == row.length else "receiving"
