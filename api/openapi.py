"""The OpenAPI document, with what FastAPI would say wrongly put right."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made by `zsq keys create` on the server. Loopback needs none by default.",
}
# What the guard, and what stands before it, may answer to any call.
_GUARDED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)


def install(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _built(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _built(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    document["components"]["securitySchemes"] = {"key": _SCHEME}
    for name, path in document["paths"].items():
        for operation in path.values():
            if name.startswith("/v1/"):
                _guard(operation, needed=app.state.settings.auth_required)
            for status, response in operation["responses"].items():
                if int(status) >= 400:  # all errors share one envelope and its media type
                    response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _guard(operation: dict[str, Any], *, needed: bool) -> None:
    operation["security"] = [{"key": []}] if needed else [{}, {"key": []}]
    for status in _GUARDED:
        operation["responses"].setdefault(str(status.value), {"description": status.phrase})
