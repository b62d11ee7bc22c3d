from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store.migrate import upgrade
from tests.http_server import Handler, listening
from zsq.doctor import answers, unknown_variables
from zsq.stack.broker import Broker, embedded
from zsq.stack.part import Part

ROOT = Path(__file__).parents[2]


def doctor(folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """`zsq doctor` in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    command = [sys.executable, "-c", "from zsq.cli import app; app()", "doctor", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout


def findings(said: str) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads(said)}


def test_a_machine_in_order(tmp_path: Path, broker_url: str, postgres_url: str) -> None:
    upgrade(postgres_url)
    # A `store` of the user's own in the folder must not be taken for ours.
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__init__.py").touch()
    (tmp_path / "store" / "doctor.py").write_text("raise SystemExit('not ours')")
    code, said = doctor(tmp_path, "--json", ZSQ_BROKER_URL=broker_url, ZSQ_DATABASE_URL=postgres_url)
    found = findings(said)
    assert [each for each in found.values() if each["level"] == "failure"] == []
    assert code == 0
    assert {
        "Python",
        "storage settings",
        "data folder",
        "memory",
        "database",
        "migrations",
        "clock",
        "broker",
        "blobs",
        "API settings",
        "API",
        "worker settings",
        "torch",
        "ONNX Runtime",
        "processor",
        "server",
    } <= set(found)
    assert found["server"]["level"] == "warning", "none was named, and none need run"
    assert "jobs run on" in found["torch"]["detail"]
    assert (tmp_path / ".zsq").is_dir()


def test_every_fault_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ZSQ_DATABSE_URL=postgresql://here\nZSQ_LEASE_SECONDS=soon\n")
    (tmp_path / "file").touch()
    settings = {
        "ZSQ_LEASE_SECONDS": "60",
        "ZSQ_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/zsq",
        "ZSQ_BROKER_URL": "redis://:hunter2@127.0.0.1:1/0",
        "ZSQ_BLOBS_URL": (tmp_path / "file" / "blobs").as_uri(),
        "ZSQ_DATA_DIR": str(tmp_path / "file" / "data"),
        "ZSQ_DEVICE": "cuda:77",
        "ZSQ_PORT": "http",
        "ZSQ_SERVER_URL": "http://127.0.0.1:1",
    }
    code, said = doctor(tmp_path, "--json", **settings)
    assert code == 1 and "hunter2" not in said
    found = findings(said)
    for check in (
        "data folder",
        "database",
        "migrations",
        "broker",
        "blobs",
        "API settings",
        "torch",
        "server",
    ):
        assert found[check]["level"] == "failure", check
        assert found[check]["advice"], check
    assert "ZSQ_PORT" in found["API settings"]["detail"]
    assert "cuda:77" in found["torch"]["detail"]
    code, table = doctor(tmp_path, **settings)
    assert code == 1 and "failure" in table and "what to do" in table


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "ZSQ_LEASE_SECONDS=soon\nZSQ_DATABSE_URL=x\nexport ZSQ_NOTHING_LIKE_IT=1\n"
    )
    code, said = doctor(tmp_path, "--json")
    assert code == 1
    every = json.loads(said)
    (wrong,) = [each for each in every if each["check"] == "storage settings"]
    assert wrong["level"] == "failure" and "ZSQ_LEASE_SECONDS" in wrong["detail"]
    unknown = {each["detail"].split()[0]: each for each in every if each["check"] == "settings"}
    assert set(unknown) == {"ZSQ_DATABSE_URL", "ZSQ_NOTHING_LIKE_IT"}
    assert unknown["ZSQ_DATABSE_URL"]["advice"] == "Is ZSQ_DATABASE_URL meant?"
    assert unknown["ZSQ_DATABSE_URL"]["level"] == "warning"


def test_what_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        code, said = doctor(
            tmp_path,
            "--json",
            ZSQ_DATABASE_URL=f"postgresql://u:p@127.0.0.1:{port}/zsq",
            ZSQ_BROKER_URL=f"redis://127.0.0.1:{port}/0",
            ZSQ_SERVER_URL=f"http://127.0.0.1:{port}",
        )
    found = findings(said)
    assert code == 1
    assert {"database", "broker", "server"} <= {
        name for name, each in found.items() if each["level"] == "failure"
    }


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("ZSQ_BROKER_ULR", "Is ZSQ_BROKER_URL meant?"),
        ("ZSQ_X", "No setting is called so"),
        ("ZSQ_PORT", None),
    ],
)
def test_unknown_names_come_with_the_nearest_known(given: str, advice: str | None) -> None:
    found = unknown_variables({given}, {"ZSQ_BROKER_URL", "ZSQ_PORT"})
    assert [str(each.advice)[: len(advice or "")] for each in found] == ([advice] if advice else [])


@pytest.fixture
def unready() -> Iterator[str]:
    class Unready(Handler):
        def do_GET(self) -> None:
            self.answer(503, b'{"detail": "Not ready: broker."}')

    with listening(Unready) as url:
        yield url


def test_a_server_that_is_not_ready_says_what_is_missing(unready: str) -> None:
    found = answers(unready, chosen=False)
    assert (found.level, "Not ready: broker." in found.detail) == ("failure", True)


def test_the_broker_of_a_running_stack_is_found_and_a_dead_ones_is_not(tmp_path: Path) -> None:
    assert embedded(tmp_path) is None
    broker = Broker(tmp_path)
    part = Part("broker", broker.command, dict(os.environ), tmp_path / "logs")
    part.start()
    try:
        while not broker.answers():
            assert part.ended() is None, part.last_words()
        assert embedded(tmp_path) == broker.url
    finally:
        part.finish()
    assert embedded(tmp_path) is None
