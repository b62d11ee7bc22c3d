"""What the forkserver imports first, in processes that stand for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# As the forkserver of Python 3.14 begins: a key from a pipe, which it closes, then imports.
WITH_KEY = """
import json, os, sys
def main(listener_fd, *, authkey_r=None):
    authkey = os.read(authkey_r, 32)
    os.close(authkey_r)
    import worker.stripped
    print(json.dumps([authkey.hex(), dict(os.environ)]))
main(3, authkey_r={descriptor})
"""
WITHOUT = """
import json, os
import worker.stripped
print(json.dumps(["", dict(os.environ)]))
"""


@pytest.mark.parametrize("secrets", [{}, {"ZSQ_DATABASE_URL": "postgresql://u:p@h/d", "PGPASSWORD": "p"}])
@pytest.mark.parametrize("with_key", [True, False])
def test_a_forkserver_begins_anew_without_secrets_and_with_its_key(
    secrets: dict[str, str], with_key: bool
) -> None:
    reading, writing = os.pipe()
    key = os.urandom(32) if with_key else b""
    os.write(writing, key)
    os.close(writing)
    # As the key is read only where there is one, and a process that began anew waits for none that is gone.
    script = WITH_KEY.format(descriptor=reading) if with_key else WITHOUT
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **secrets},
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    os.close(reading)
    got, environment = json.loads(ran.stdout)
    assert bytes.fromhex(got) == key
    assert secrets.keys().isdisjoint(environment) and environment["OMP_WAIT_POLICY"]
