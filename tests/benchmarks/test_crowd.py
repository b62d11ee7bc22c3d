"""How the reliability harness's crowd ends when it is told to, and what it says until then."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.http_server import Handler, listening

REMAINING = 20.0


@pytest.fixture
def jobs_end() -> Iterator[threading.Event]:
    """At last they end all the same, so that whoever waits for them does not do so for ever."""
    event = threading.Event()
    timer = threading.Timer(REMAINING, event.set)
    timer.start()
    yield event
    timer.cancel()
    event.set()


@pytest.fixture
def terminated() -> Iterator[None]:
    """SIGTERM ends the program as it does `reliability.py`."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    yield
    signal.signal(signal.SIGTERM, before)


class Records:
    """Of a job that is made after the first look; `asked` is set when somebody has looked again and again."""

    def __init__(self) -> None:
        self._looks = 0
        self.asked = threading.Event()

    def jobs(self) -> list[SimpleNamespace]:
        self._looks += 1
        if self._looks >= 3:
            self.asked.set()
        return [SimpleNamespace(id="job_1", status="succeeded")] if self._looks > 1 else []


def test_the_crowd_goes_when_it_is_told_to(
    jobs_end: threading.Event,
    terminated: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crowd = importlib.import_module("faults.crowd")
    monkeypatch.setattr(crowd, "TELL_SECONDS", 0.05, raising=False)
    records, polled = Records(), threading.Event()

    class Api(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(202, json.dumps({"id": "job_1"}).encode())

        def do_GET(self) -> None:
            status = "succeeded" if jobs_end.is_set() else "running"
            self.answer(200, json.dumps({"status": status}).encode())
            polled.set()

    def terminate() -> None:
        if polled.wait(REMAINING) and records.asked.wait(REMAINING / 4):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with listening(Api) as url:
        cluster = SimpleNamespace(urls=[url], records=records, workers=[])
        inputs = SimpleNamespace(job=lambda spec: dict(spec))
        with pytest.raises(SystemExit):
            crowd.run(cluster, inputs, jobs=4, clients=4, every=3600.0)
    assert not jobs_end.is_set(), "it left without waiting for its jobs"
    assert "1 of 4 jobs have ended, 0 workers killed" in capsys.readouterr().out
