"""What every error answer must look like."""

from __future__ import annotations

from typing import Any


def problem(response: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """Checks the envelope and returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code"} <= set(body)
    assert (body["status"], body["code"]) == (status, code), body
    assert body["detail"]
    if field is not None:
        assert field in [error["field"] for error in body["errors"]], body
    return body
