"""`python -m store.keys`, as an administrator types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from store.database import Database, make_engine
from store.key_repository import hash_of

ROOT = Path(__file__).resolve().parents[2]


def keys(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "store.keys", *words],
        env={**os.environ, "ZSQ_DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_key_is_made_used_listed_and_revoked(database_url: str) -> None:
    made = keys(database_url, "create", "--owner", "ann", "--name", "laptop", "--expires-days", "30")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"zsq_[0-9a-f]{24}_[\w-]{43}\n", made.stdout), "the key alone can be piped"
    assert key not in made.stderr
    database = Database(make_engine(database_url))
    with database.read() as work:
        digest = hash_of(key)
        assert digest is not None
        row = work.keys.by_hash(digest)
    assert row is not None and (row.owner, row.name) == ("ann", "laptop")
    assert row.expires_at is not None and (row.expires_at - row.created_at).days in (29, 30)

    listed = keys(database_url, "list")
    assert row.id in listed.stdout and "laptop" in listed.stdout and "active" in listed.stdout
    assert key not in listed.stdout + listed.stderr

    assert keys(database_url, "revoke", row.id).returncode == 0
    again = keys(database_url, "revoke", row.id)
    assert again.returncode == 0 and "already" in again.stderr
    [shown] = json.loads(keys(database_url, "list", "--json").stdout)
    assert (shown["id"], shown["state"]) == (row.id, "revoked") and shown["revoked_at"]
    assert "key" not in shown and "hash" not in shown
    database.dispose()


def test_json_has_the_key_once(database_url: str) -> None:
    made = json.loads(keys(database_url, "create", "--owner", "ann", "--json").stdout)
    assert hash_of(made["key"]) and made["owner"] == "ann" and made["expires_at"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("create",),
        ("create", "--owner", "two words"),
        ("create", "--owner", "x" * 65),
        ("create", "--owner", "ann", "--expires-days", "0"),
        ("create", "--owner", "ann", "--expires-days", "nan"),
        ("create", "--owner", "ann", "--name", "a\nb"),
        ("revoke",),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = keys(f"sqlite:///{tmp_path / 'none.db'}", *words)
    assert done.returncode == 2 and done.stdout == "" and "error" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_id_and_a_missing_database_are_said_plainly(tmp_path: Path, database_url: str) -> None:
    unknown = keys(database_url, "revoke", "key_0")
    assert unknown.returncode == 1 and unknown.stderr == "error: There is no key key_0.\n"
    missing = keys(f"sqlite:///{tmp_path / 'nowhere' / 'zsq.db'}", "list")
    assert missing.returncode == 1 and "store.migrate" in missing.stderr
    assert "Traceback" not in missing.stderr and not (tmp_path / "nowhere").exists()
    away = keys("postgresql://u:secret@127.0.0.1:1/none", "list")
    assert away.returncode == 1 and "cannot be reached" in away.stderr
    assert "secret" not in away.stderr and "Traceback" not in away.stderr
