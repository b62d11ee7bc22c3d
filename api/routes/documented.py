"""What FastAPI cannot see for itself: the problems that a call answers with, and streamed bodies."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import AfterValidator, BaseModel

from api.errors import MalformedRequest, NotFound, Problem, phrase_of


def _id(text: str) -> str:
    # An id that cannot be ours is one that is not there; PostgreSQL would refuse null characters.
    if not re.fullmatch(r"\w{1,64}", text, re.ASCII):
        raise NotFound("There is nothing with such an id.")
    return text


IdPath = Annotated[str, AfterValidator(_id)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many items a page holds.")]
After = Annotated[str | None, Query(pattern="^[0-9A-Za-z_]{1,64}$", description="`next` of the page before.")]


def _key(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", text):
        raise MalformedRequest("An Idempotency-Key has 1 to 255 printable ASCII characters.")
    return text


_IdempotencyKey = Annotated[
    str | None,
    Header(
        description="1 to 255 printable characters of your choice. For a time (ZSQ_IDEMPOTENCY_HOURS, a day "
        "unless told otherwise) the same request with the same key is answered as before, with "
        "`Idempotent-Replayed: true`, and another request with it is refused."
    ),
    AfterValidator(_key),
]


async def _one_key(request: Request, idempotency_key: _IdempotencyKey = None) -> str | None:
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise MalformedRequest("A request has one Idempotency-Key at most.")
    return idempotency_key


IdempotencyKeyDep = Annotated[str | None, Depends(_one_key)]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route; 500 and 503 belong to every one."""
    every = (*statuses, 500, 503)
    return {status: {"model": Problem, "description": phrase_of(status)} for status in every}


def streamed(fields: type[BaseModel], *, raw: bool, optional_files: tuple[str, ...] = ()) -> dict[str, Any]:
    """The `openapi_extra` of an upload: the form, and with `raw` the body with its query."""
    schema = fields.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    binary = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {
        "type": "object",
        "properties": {
            **schema["properties"],
            **dict.fromkeys(("file", *optional_files), binary),
        },
        "required": ["file", *schema.get("required", [])],
        "additionalProperties": False,
    }
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if raw:
        content["application/octet-stream"] = {"schema": binary}
        extra["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": shape,
                "description": "With an application/octet-stream body; in a form, a part of the form.",
            }
            for name, shape in schema["properties"].items()
        ]
    return extra


def header_parameters(required: dict[str, str], optional: dict[str, str] | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a call that reads headers by itself: their names and what they are."""
    parameters = [
        {"name": name, "in": "header", "required": name in required, "schema": {"type": "string"}}
        | {"description": description}
        for name, description in {**required, **(optional or {})}.items()
    ]
    return {"parameters": parameters}
