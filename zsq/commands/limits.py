"""`zsq limits`: who the server takes you for, and what you may take."""

from __future__ import annotations

from typing import Any

from zsq.client import DEFAULT_SERVER
from zsq.commands.common import ApiKey, Json, Server, connect, print_json, print_rows
from zsq.report_view import size
from zsq.terminal import console

_ROWS = (
    ("stored_bytes", "stored"),
    ("queued_jobs", "queued jobs"),
    ("uploads", "uploads under way"),
    ("begun_uploads", "resumable uploads begun"),
    ("calls_per_minute", "calls in the last minute"),
)


def limits(as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Show whose the API key is, and what that owner has taken and may take."""
    with connect(server, api_key) as client:
        found = client.limits()
    if as_json:
        print_json(found)
        return
    key = f", with {found['key_id']}" if found.get("key_id") else ", without a key"
    console().print(f"You are {found.get('owner')}{key}.", markup=False)
    rows = [[text, *_cells(name, found.get(name))] for name, text in _ROWS]
    rows.append(["largest upload", "", size(found.get("upload_bytes"))])
    print_rows(["", "used", "allowed"], rows, "")


def _cells(name: str, allowance: dict[str, Any] | None) -> list[str]:
    if allowance is None:
        return ["not counted", "no limit"]
    show = size if name.endswith("bytes") else str
    allowed = allowance.get("allowed")
    return [show(allowance.get("used")), "no limit" if allowed is None else show(allowed)]
