"""`zsq keys` as a user types it, on a real database, and the key that it makes on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.migrate import upgrade

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    upgrade(f"sqlite:///{tmp_path / 'zsq.db'}")
    # A `store` of the user's own in the folder must not be taken for ours.
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__init__.py").touch()
    (tmp_path / "store" / "keys.py").write_text("raise SystemExit('not ours')")
    return {**os.environ, "ZSQ_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}


def zsq(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from zsq.cli import app; app()", *words]
    return subprocess.run(
        command, env=env, cwd=env["ZSQ_DATA_DIR"], capture_output=True, text=True, timeout=60
    )


def test_create_list_and_revoke(env: dict[str, str]) -> None:
    made = zsq(env, "keys", "create", "--owner", "ann", "--name", "the laptop", "--expires-days", "7")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("zsq_") and len(made.stdout.split()) == 1
    [row] = json.loads(zsq(env, "keys", "list", "--json").stdout)
    assert (row["owner"], row["name"], row["state"]) == ("ann", "the laptop", "active")
    revoked = zsq(env, "keys", "revoke", row["id"], "--json")
    assert revoked.returncode == 0 and json.loads(revoked.stdout)["state"] == "revoked"


def test_what_the_server_side_refuses_fails_the_command(env: dict[str, str]) -> None:
    unknown = zsq(env, "keys", "revoke", "key_0")
    assert unknown.returncode == 1 and "no key key_0" in unknown.stderr
    assert zsq(env, "keys", "create", "--owner", "two words").returncode == 2
    assert zsq(env, "keys", "create").returncode == 2


def test_a_client_alone_says_where_keys_are_made(env: dict[str, str]) -> None:
    # As without the package: it cannot be found any more.
    code = "import sys; sys.modules['sqlalchemy'] = None; from zsq.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "keys", "list"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "zsq[api]" in done.stderr and "Traceback" not in done.stderr
