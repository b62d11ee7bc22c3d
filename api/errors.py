"""Every error as an HTTP answer: the only place where status codes stand.

    ApiError                     the request itself, before core or store have a say
    ├── Invalid                  422, with every fault located in `errors`
    ├── IdempotencyKeyReused     422  the key belongs to another request
    ├── Unauthorized             401  no key, or none that is good; never which
    ├── Forbidden                403  a foreign page or name, not a foreign owner: that is 404
    ├── NotFound                 404
    ├── Expired                  410  a resumable upload that was not gone on with in time
    ├── NotReady                 409  the job has not produced this (yet)
    ├── OffsetMismatch           409  a resumable upload goes on elsewhere
    ├── MalformedRequest         400
    ├── UnsupportedTusVersion    412
    ├── PreconditionFailed       412  If-Match or If-Unmodified-Since does not hold
    ├── ChecksumMismatch         460  tus's own: the bytes are not those that were announced
    ├── PayloadTooLarge          413
    │   └── QuotaExceeded        413  with what is used and what is allowed
    ├── TooMany                  429, with Retry-After
    ├── UnsupportedMediaType     415
    └── RangeNotSatisfiable      416

All answers are `application/problem+json` (RFC 9457): type, title, status, detail, code, request_id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from core import errors as core
from store import errors as store
from store.logging import current_request_id

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One fault. `field` is dotted (`bits.weight`) and empty when the whole request is meant."""

    field: str
    code: str
    detail: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable and for programs, `detail` is for people.

    `request_id` is the answer's `X-Request-ID`; the server's log lines of this request carry it too.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = None
    request_id: str | None = None


class ApiError(Exception):
    code = "bad_request"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.errors = list(errors)
        self.headers = headers
        self.extensions = extensions


class Invalid(ApiError):
    code = "validation_error"

    @classmethod
    def one(cls, field: str, code: str, detail: str) -> Invalid:
        fault = FieldError(field=field, code=code, detail=detail)
        return cls(f"{field}: {detail}", code=code if code in OWN_CODES else None, errors=[fault])

    @classmethod
    def from_pydantic(cls, found: Iterable[Mapping[str, Any]]) -> Invalid:
        """From the `errors()` of a pydantic ValidationError. What was sent is not repeated."""
        errors = [_field_error(each) for each in found]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = errors[0]
        where = f"{first.field}: " if first.field else ""
        own = first.code if len(errors) == 1 and first.code in OWN_CODES else None
        return cls(f"{where}{first.detail}{more}", code=own, errors=errors)


class Unauthorized(ApiError):
    """One text for keys that are missing, malformed, unknown, expired and revoked: nothing can be guessed."""

    code = "unauthorized"

    def __init__(self, detail: str = "This needs a valid API key, as `Authorization: Bearer <key>`.") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    code = "forbidden"


class NotFound(ApiError):
    code = "not_found"


class IdempotencyKeyReused(ApiError):
    code = "idempotency_key_reused"


class Expired(ApiError):
    code = "upload_expired"


class NotReady(ApiError):
    code = "not_ready"


class OffsetMismatch(ApiError):
    code = "offset_mismatch"


class UnsupportedTusVersion(ApiError):
    code = "unsupported_tus_version"


class PreconditionFailed(ApiError):
    code = "precondition_failed"


class ChecksumMismatch(ApiError):
    code = "checksum_mismatch"


class MalformedRequest(ApiError):
    code = "malformed_request"


class PayloadTooLarge(ApiError):
    code = "payload_too_large"


class QuotaExceeded(PayloadTooLarge):
    code = "quota_exceeded"


class TooMany(ApiError):
    """`retry_after` is in seconds."""

    code = "too_many"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        retry_after: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, code=code, headers={**(headers or {}), "Retry-After": str(retry_after)})


class UnsupportedMediaType(ApiError):
    code = "unsupported_media_type"


class RangeNotSatisfiable(ApiError):
    code = "range_not_satisfiable"


# A single fault of these kinds names the whole answer.
OWN_CODES = frozenset({"unknown_architecture", "empty_file"})

# Not among HTTP's own statuses, so that it has no phrase there.
_PHRASES = {460: "Checksum Mismatch"}

# The nearest class in an error's family decides.
STATUS: Mapping[type[Exception], int] = {
    ApiError: HTTPStatus.BAD_REQUEST,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Expired: HTTPStatus.GONE,
    NotReady: HTTPStatus.CONFLICT,
    OffsetMismatch: HTTPStatus.CONFLICT,
    UnsupportedTusVersion: HTTPStatus.PRECONDITION_FAILED,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    ChecksumMismatch: 460,
    MalformedRequest: HTTPStatus.BAD_REQUEST,
    PayloadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    QuotaExceeded: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    core.ZsqError: HTTPStatus.INTERNAL_SERVER_ERROR,
    core.InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    core.SpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    core.CheckpointError: HTTPStatus.UNPROCESSABLE_ENTITY,
    core.ArchitectureError: HTTPStatus.UNPROCESSABLE_ENTITY,
    core.DatasetError: HTTPStatus.UNPROCESSABLE_ENTITY,
    core.RunError: HTTPStatus.INTERNAL_SERVER_ERROR,
    core.Diverged: HTTPStatus.INTERNAL_SERVER_ERROR,
    core.OutOfMemory: HTTPStatus.INTERNAL_SERVER_ERROR,
    core.ExportError: HTTPStatus.INTERNAL_SERVER_ERROR,
    core.Stopped: HTTPStatus.CONFLICT,
    core.Canceled: HTTPStatus.CONFLICT,
    core.DeadlineExceeded: HTTPStatus.CONFLICT,
    core.HandedBack: HTTPStatus.CONFLICT,
    store.StoreError: HTTPStatus.INTERNAL_SERVER_ERROR,
    store.InUse: HTTPStatus.CONFLICT,
    store.AlreadyEnded: HTTPStatus.CONFLICT,
    store.JobUnfinished: HTTPStatus.CONFLICT,
    store.BlobMissing: HTTPStatus.INTERNAL_SERVER_ERROR,
    store.BlobCorrupt: HTTPStatus.INTERNAL_SERVER_ERROR,
    store.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

# For the errors that the router itself makes.
_CODES = {
    HTTPStatus.BAD_REQUEST: "malformed_request",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "payload_too_large",
}


def phrase_of(status: int) -> str:
    return _PHRASES[status] if status in _PHRASES else HTTPStatus(status).phrase


def status_of(error: Exception) -> int:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> JSONResponse:
    """The one envelope; `extensions` are further members, as RFC 9457 allows."""
    body = Problem(
        type=f"urn:zsq:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        errors=list(errors) or None,
        request_id=current_request_id(),
    )
    content = body.model_dump(exclude_none=True) | extensions
    return JSONResponse(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _field_error(found: Mapping[str, Any]) -> FieldError:
    location = [str(part) for part in found["loc"]]
    if location[:1] in (["body"], ["query"], ["path"], ["header"]):
        location = location[1:]
    if location[:1] == ["method"] and len(location) > 1:
        del location[1]  # the union's tag: `method.zaq.alpha` was sent as `method.alpha`
    detail = str(found["msg"]).removeprefix("Value error, ")
    return FieldError(field=".".join(location), code=found["type"], detail=detail)


def answer(error: ApiError | store.StoreError) -> Response:
    """For what stands before the application's own handlers."""
    if isinstance(error, ApiError):
        return problem(
            status_of(error),
            error.code,
            error.detail,
            errors=error.errors,
            headers=error.headers,
            **error.extensions,
        )
    status = status_of(error)
    later = {"Retry-After": "2"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, error.code, error.detail, headers=later)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return answer(error)


async def _on_core_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, core.ZsqError)
    fields = [FieldError(field=error.field, code=error.code, detail=error.detail)] if error.field else []
    return problem(status_of(error), error.code, error.detail, errors=fields)


async def _on_store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, store.StoreError)
    return answer(error)


async def _on_request_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    for each in found:
        if each["type"] == "json_invalid":
            why = f"{each['ctx']['error']}, at character {each['loc'][-1]}"
            return await _on_api_error(request, MalformedRequest(f"The body is not valid JSON ({why})."))
    return await _on_api_error(request, Invalid.from_pydantic(found))


async def _on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = _CODES.get(status, status.name.lower())
    detail = {
        # FastAPI's only own one: Python's JSON parser gave up for another reason than the grammar.
        HTTPStatus.BAD_REQUEST: "The body is not valid JSON in UTF-8, or nests or counts beyond all measure.",
        HTTPStatus.NOT_FOUND: "There is nothing at this address.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible here.",
    }.get(status, str(error.detail))
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(status, code, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """What is possible at this address; the router names the methods of its first route alone."""
    asked = {method: {**request.scope, "method": method} for method in _METHODS}
    return [
        method
        for method, scope in asked.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]


async def _on_disconnect(request: Request, error: Exception) -> Response:
    log.info("%s %s: the client went away", request.method, request.url.path)
    return Response(status_code=HTTPStatus.BAD_REQUEST)


def unforeseen() -> Response:
    """The server logs the traceback; the caller learns nothing of the inside."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here. It has been logged."
    )


async def _on_anything_else(request: Request, error: Exception) -> Response:
    return unforeseen()


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(core.ZsqError, _on_core_error)
    app.add_exception_handler(store.StoreError, _on_store_error)
    app.add_exception_handler(RequestValidationError, _on_request_validation)
    app.add_exception_handler(HTTPException, _on_router_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_anything_else)
