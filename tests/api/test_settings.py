from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "required"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": ""}, True),
        ({"host": "192.0.2.1"}, True),
        ({"auth": "required"}, True),
        ({"auth": "off"}, False),
    ],
)
def test_keys_are_asked_for_unless_only_this_machine_can_call(given: dict[str, Any], required: bool) -> None:
    assert ApiSettings(**given).auth_required is required


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"auth": "off", "host": "0.0.0.0"}, "ZSQ_AUTH=off"),
        ({"auth": "none"}, "auto"),
        ({"cors_origins": ("*",)}, "ZSQ_CORS_ORIGINS"),
        ({"cors_origins": ("pages.example.org",)}, "no origin"),
        ({"cors_origins": ("https://pages.example.org/app",)}, "no origin"),
        ({"allowed_hosts": ("https://zsq.example.org",)}, "no host"),
        ({"allowed_hosts": ("*",)}, "no host"),
        ({"owner_queued_jobs": -1}, "greater"),
    ],
)
def test_what_would_open_the_server_or_mean_nothing_is_refused(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        ApiSettings(**given)
    if given.get("cors_origins") == ("*",):
        assert ApiSettings(**given, auth="required")


@pytest.mark.parametrize(
    "text", ['["https://a.example","http://b.example:81"]', "https://A.example, http://b.example:81"]
)
def test_lists_are_json_or_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ZSQ_CORS_ORIGINS", text)
    assert ApiSettings().cors_origins == ("https://a.example", "http://b.example:81")


def test_a_server_that_would_be_open_to_all_does_not_start(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "ZSQ_AUTH": "off",
        "ZSQ_HOST": "0.0.0.0",
        "ZSQ_DATA_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-m", "api"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "ZSQ_AUTH=off would open the API" in done.stderr and "Traceback" not in done.stderr
