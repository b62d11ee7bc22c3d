"""`zsq uploads`: resumable uploads that broke off; they count against the owner's limits."""

from __future__ import annotations

from collections.abc import Callable

from zsq.client import DEFAULT_SERVER
from zsq.commands.common import ApiKey, Json, Server, connect, new_group, print_listing, time_text
from zsq.models import BegunUpload
from zsq.report_view import size

uploads = new_group("Resumable uploads that are begun and not ended.")


@uploads.command("list")
def list_begun(as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """List what is begun, with what has come of it and when it goes by itself."""
    with connect(server, api_key) as client:
        found = list(client.begun_uploads())
    columns: dict[str, Callable[[BegunUpload], str]] = {
        "id": lambda item: item.id,
        "kind": lambda item: item.kind,
        "came": lambda item: f"{size(item.offset)} of {size(item.length)}",
        "expires": lambda item: time_text(item.expires_at),
    }
    print_listing(found, as_json, columns, "None is begun.")


@uploads.command("delete")
def delete_begun(upload_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Give one up, with what has come of it."""
    with connect(server, api_key) as client:
        client.delete_upload(upload_id)
