"""`zsq methods` and `zsq architectures`: what can be asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from zsq.client import DEFAULT_SERVER
from zsq.commands.common import ApiKey, Json, Server, connect, print_json, print_rows


def methods(as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """List the methods; --json adds every option with its default and bounds."""
    with connect(server, api_key) as client:
        found = client.methods()
    if as_json:
        print_json(found)
        return
    rows = [
        [str(item.get("name", "")), str(item.get("summary") or item.get("description") or "")]
        for item in found
    ]
    print_rows(["method", ""], rows, "None.")


def architectures(
    contains: Annotated[str, typer.Argument(help="Only names with this in them.")] = "",
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """List the networks that a checkpoint may hold; --json adds the defaults and tags of each."""
    with connect(server, api_key) as client:
        found = client.architectures(contains)
    if as_json:
        print_json(found)
        return
    rows = [
        [str(item.get("name", "")), "×".join(str(n) for n in item.get("input_shape") or ())] for item in found
    ]
    print_rows(["architecture", "input"], rows, "None.")
