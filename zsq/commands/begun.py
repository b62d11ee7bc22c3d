"""`zsq uploads`: resumable uploads that broke off; they count against the owner's limits."""

from __future__ import annotations

from zsq.client import DEFAULT_SERVER
from zsq.commands.common import ApiKey, Json, Server, connect, new_group, print_json, print_rows
from zsq.report_view import size

uploads = new_group("Resumable uploads that are begun and not ended.")


@uploads.command("list")
def list_begun(as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """List what is begun, with what has come of it and when it goes by itself."""
    with connect(server, api_key) as client:
        found = list(client.begun_uploads())
    if as_json:
        print_json([dict(item.raw) for item in found])
        return
    rows = [
        [
            item.id,
            item.kind,
            f"{size(item.offset)} of {size(item.length)}",
            item.expires_at.strftime("%Y-%m-%d %H:%M:%SZ") if item.expires_at else "",
        ]
        for item in found
    ]
    print_rows(["id", "kind", "came", "expires"], rows, "None is begun.")


@uploads.command("delete")
def delete_begun(upload_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Give one up, with what has come of it."""
    with connect(server, api_key) as client:
        client.delete_upload(upload_id)
