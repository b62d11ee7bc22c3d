from __future__ import annotations

import pytest

from api.loopback import is_loopback


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "Localhost.", "x.localhost", "::ffff:127.0.0.1"],
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "192.168.1.1",
        "10.0.0.1",
        "example.org",
        "localhost.example.org",
        "::ffff:10.0.0.1",
        "127.1",
    ],
)
def test_anything_else(host: str) -> None:
    assert not is_loopback(host)
