"""`zsq keys`: API keys, made where the database can be reached. The work is `python -m store.keys`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from zsq.commands.common import new_group
from zsq.environment import own_environment
from zsq.errors import ClientError

keys = new_group(
    "API keys of the server whose database this is (ZSQ_DATABASE_URL, else in ZSQ_DATA_DIR, else in ./.zsq)."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@keys.command("create")
def create(
    owner: Annotated[str, typer.Option(help="Whose it is; keys of one owner see the same.")],
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires_days: Annotated[
        float | None, typer.Option(help="Ends by itself after so many days; else never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It alone goes to standard output, this once."""
    options = ["--owner", owner]
    if name is not None:
        options += ["--name", name]
    if expires_days is not None:
        options += ["--expires-days", str(expires_days)]
    _run("create", *options, as_json=as_json)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys with their owners, never what they are."""
    _run("list", as_json=as_json)


@keys.command("revoke")
def revoke(key_id: str, as_json: AsJson = False) -> None:
    """End a key for good. A running server follows within seconds."""
    _run("revoke", key_id, as_json=as_json)


def _run(*words: str, as_json: bool) -> None:
    if find_spec("store") is None or find_spec("sqlalchemy") is None:
        raise ClientError(
            "Keys are made where the server is installed, on its database: pip install 'zsq[api]'."
        )
    command = [sys.executable, "-m", "store.keys", *words, *(["--json"] if as_json else [])]
    code = subprocess.run(command, env=own_environment(), check=False).returncode
    if code:
        raise typer.Exit(code)
