"""API keys at a terminal: `python -m store.keys create --owner NAME`, `list`, `revoke ID`.

Works on the database itself, so whoever can reach that decides who may call the API. A new key
stands alone on standard output, everything else on standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import make_url

from store.database import Database
from store.errors import StoreError
from store.key_repository import OWNER, is_usable
from store.settings import store_settings
from store.tables import ApiKey, utc_now


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    asked = _parser().parse_args(words)
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong is said below, once
    try:
        settings = store_settings()
    except ValidationError as error:
        return _complain(f"A setting cannot be used: {error}")
    url = make_url(settings.database_url)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        return _complain(f"There is no {shown} yet: start the server once, or run `python -m store.migrate`.")
    database = Database.from_settings(settings)
    try:
        return int(asked.run(database, asked))
    except StoreError as error:
        return _complain(f"{error} It is {shown}; `python -m store.migrate` makes its tables.")
    finally:
        database.dispose()


def _create(database: Database, asked: argparse.Namespace) -> int:
    expires_at = utc_now() + timedelta(days=asked.expires_days) if asked.expires_days else None
    with database.write() as work:
        row, key = work.keys.create(asked.owner, asked.name, expires_at)
    if asked.json:
        print(json.dumps({**_public(row), "key": key}, indent=2))
    else:
        print(key)
    until = f" until {_time(row.expires_at)}" if row.expires_at else ""
    _tell(
        f"{row.id}: a key of {row.owner}{until}. It is shown this once, keep it; `revoke {row.id}` ends it."
    )
    return 0


def _list(database: Database, asked: argparse.Namespace) -> int:
    with database.read() as work:
        rows = work.keys.all()
    if asked.json:
        print(json.dumps([_public(row) for row in rows], indent=2))
        return 0
    if not rows:
        _tell("No keys yet.")
        return 0
    table = [["id", "owner", "name", "state", "created", "last used", "expires"]]
    for row in rows:
        times = [_time(time) for time in (row.created_at, row.last_used_at, row.expires_at)]
        table.append([row.id, row.owner, row.name or "", _state(row), *times])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _revoke(database: Database, asked: argparse.Namespace) -> int:
    with database.write() as work:
        ended = work.keys.revoke(asked.id)
        row = work.keys.get(asked.id)
    if row is None:
        return _complain(f"There is no key {asked.id}.")
    if asked.json:
        print(json.dumps(_public(row), indent=2))
    _tell(f"{row.id} of {row.owner} is revoked{'' if ended else ' already'}.")
    return 0


def _state(row: ApiKey) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "active" if is_usable(row, utc_now()) else "expired"


def _public(row: ApiKey) -> dict[str, Any]:
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    found: dict[str, Any] = {"id": row.id, "owner": row.owner, "name": row.name, "state": _state(row)}
    for name in times:
        time: datetime | None = getattr(row, name)
        found[name] = time.isoformat().replace("+00:00", "Z") if time is not None else None
    return found


def _time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z" if time is not None else ""


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _complain(line: str) -> int:
    _tell(f"error: {line}")
    return 1


def _owner(text: str) -> str:
    if not OWNER.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "a name of at most 64 letters, digits and . _ @ + -, beginning with a letter or digit"
        )
    return text


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > 255:
        raise argparse.ArgumentTypeError("at most 255 printable characters")
    return text


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36500:
        raise argparse.ArgumentTypeError("a number of days above 0, at most 36500")
    return days


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m store.keys", description="API keys of this server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument(
        "--owner", type=_owner, required=True, help="whose: all keys of one owner see the same"
    )
    create.add_argument("--name", type=_name, help="what it is for")
    create.add_argument("--expires-days", type=_days, metavar="N", help="ends by itself after N days")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="show all keys, never what they are")
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", metavar="ID")
    revoke.set_defaults(run=_revoke)
    for command in (create, listing, revoke):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
