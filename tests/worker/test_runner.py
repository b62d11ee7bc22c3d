from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.doubles import PREFIX
from tests.worker.escapes import PREFIX as ESCAPES
from tests.worker.waiting import wait_for
from worker.child import Order
from worker.outcomes import Failed, Finished, Limit, Outcome, Stop, Stopped
from worker.runner import run_child

GIB = 2**30


class Supervised:
    """Runs a double, notes its news, and stops it with `reason` once it trains."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.news: list[dict[str, Any]] = []
        self.reason: Stop | None = None

    def run(
        self,
        double: str,
        payload: dict[str, Any] | None = None,
        *,
        seconds: float = 60,
        grace: float = 30,
        hand_back: float = 0,
        **options: Any,
    ) -> Outcome:
        return run_child(
            Order(entry=PREFIX + double, payload=payload or {}, scratch=self.scratch, **options),
            limit=Limit(seconds, field="limits.seconds"),
            grace_seconds=grace,
            hand_back_seconds=hand_back,
            watch=lambda: self.reason if self.news else None,
            on_progress=self.news.append,
        )


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    return Supervised(tmp_path)


def failed(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.failure["code"]


def test_returns_the_result_and_relays_progress(supervised: Supervised) -> None:
    outcome = supervised.run("succeed", {"x": [1, None]}, seed=7, threads=1, memory_bytes=16 * GIB)
    assert outcome == Finished({"echo": {"x": [1, None]}, "seed": 7, "threads": 1})
    assert supervised.news[0]["phase"] == "training"
    assert set(supervised.news[0]["progress"]) == {"fraction", "step", "steps", "eta_seconds"}


def test_numbers_that_json_lacks_arrive_as_null(supervised: Supervised) -> None:
    found = {"loss": 0.5, "broken": None, "endless": None}
    assert supervised.run("measure") == Finished(found)
    assert [news["metrics"] for news in supervised.news] == [found]


def test_errors_of_core_cross_with_code_and_field(supervised: Supervised) -> None:
    assert supervised.run("refuse") == Failed(
        {"code": "empty_file", "detail": "No weights in it.", "retryable": False, "field": "file"}
    )
    assert failed(supervised.run("diverge")) == "diverged"


def test_an_unforeseen_error_tells_nothing_internal(supervised: Supervised) -> None:
    outcome = supervised.run("stumble")
    assert failed(outcome) == "internal_error"
    assert isinstance(outcome, Failed) and "/secret/path" not in outcome.failure["detail"]


def test_memory_beyond_the_limit_is_out_of_memory(supervised: Supervised) -> None:
    assert failed(supervised.run("exhaust_memory", memory_bytes=8 * GIB)) == "out_of_memory"


@pytest.mark.parametrize("death", ["kill_itself", "segfault", "leave"])
def test_a_silent_death_is_a_crash_worth_another_try(supervised: Supervised, death: str) -> None:
    outcome = supervised.run(death)
    assert failed(outcome) == "worker_crashed"
    assert isinstance(outcome, Failed) and outcome.failure["retryable"]
    # The supervisor and its forkserver still work.
    assert isinstance(supervised.run("succeed"), Finished)


def test_a_kill_for_memory_is_told_apart(supervised: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr("worker.runner._memory_kills", lambda: next(counts))
    assert failed(supervised.run("kill_itself")) == "out_of_memory"


def test_cancel_is_asked_first(supervised: Supervised) -> None:
    supervised.reason = Stop.CANCELED
    assert supervised.run("run_until_told", grace=300) == Stopped(Stop.CANCELED)


@pytest.mark.parametrize("mind_sigterm", [True, False])
def test_cancel_terminates_then_kills_who_does_not_listen(supervised: Supervised, mind_sigterm: bool) -> None:
    supervised.reason = Stop.CANCELED
    outcome = supervised.run("ignore_everything", {"mind_sigterm": mind_sigterm}, grace=0.2)
    assert outcome == Stopped(Stop.CANCELED)


@pytest.mark.parametrize("double", ["run_until_told", "ignore_everything"])
def test_the_deadline_holds_for_the_deaf_too(supervised: Supervised, double: str) -> None:
    outcome = supervised.run(double, seconds=0.5, grace=0.2)
    assert failed(outcome) == "deadline_exceeded"
    assert isinstance(outcome, Failed) and outcome.failure["field"] == "limits.seconds"


@pytest.mark.parametrize(
    ("kind", "size", "code"),
    [
        ("progress", 2**17, "message_too_large"),
        ("saved", 2**17, "message_too_large"),
        ("result", 9 * 2**20, "message_too_large"),
        ("result", 2**20, None),
        ("log", 2**17, None),
    ],
)
def test_what_a_child_says_at_once_is_bounded(
    supervised: Supervised, kind: str, size: int, code: str | None
) -> None:
    outcome = supervised.run("say_much", {"kind": kind, "bytes": size})
    assert (outcome.failure["code"] if isinstance(outcome, Failed) else None) == code


def test_half_a_message_does_not_hold_up_the_deadline(supervised: Supervised) -> None:
    assert failed(supervised.run("say_half", seconds=0.5, grace=0.2)) == "deadline_exceeded"


@pytest.mark.parametrize("reason", [Stop.LOST, Stop.CANCELED, Stop.HANDED_BACK])
def test_half_a_message_holds_up_nobody_who_wants_the_child_to_end(
    supervised: Supervised, reason: Stop
) -> None:
    supervised.reason = reason
    assert supervised.run("say_half", grace=0.2, hand_back=0.2) == Stopped(reason)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hear")]


def test_a_child_whose_pipe_somebody_keeps_has_ended(supervised: Supervised) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as heir:
        heir.bind(f"{short}/heir")
        heir.listen()
        # Not on the CPU, where a child has no socket to send it by.
        outcome = supervised.run("say_half", {"heir": f"{short}/heir"}, seconds=600, device="auto")
        assert failed(outcome) == "worker_crashed"
        with heir.accept()[0] as taken:
            _, [pipe], _, _ = socket.recv_fds(taken, 10, 1)
        os.close(pipe)


@pytest.mark.parametrize("hand_back", [0.2, 300])
def test_a_shutdown_asks_then_terminates(supervised: Supervised, hand_back: float) -> None:
    supervised.reason = Stop.HANDED_BACK
    double = "save_when_told" if hand_back == 300 else "ignore_everything"
    assert supervised.run(double, hand_back=hand_back) == Stopped(Stop.HANDED_BACK)


def test_a_run_that_fails_while_it_is_handed_back_has_failed(supervised: Supervised) -> None:
    supervised.reason = Stop.HANDED_BACK
    assert failed(supervised.run("diverge_though_told", hand_back=300)) == "diverged"


def test_a_cancel_comes_before_a_shutdown(supervised: Supervised) -> None:
    reasons = iter([Stop.HANDED_BACK])
    outcome = run_child(
        Order(entry=PREFIX + "ignore_everything", payload={}, scratch=supervised.scratch),
        limit=Limit(600),
        grace_seconds=0.2,
        hand_back_seconds=300,
        watch=lambda: next(reasons, Stop.CANCELED),
        on_progress=supervised.news.append,
    )
    assert outcome == Stopped(Stop.CANCELED)


@pytest.mark.parametrize("reason", [Stop.LOST, Stop.HANDED_BACK])
def test_a_lost_lease_or_a_shutdown_without_grace_kills_at_once(
    supervised: Supervised, tmp_path: Path, reason: Stop
) -> None:
    supervised.reason = reason
    pid_file = tmp_path / "pid"
    assert supervised.run("ignore_everything", {"pid_file": str(pid_file)}, grace=300) == Stopped(reason)
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_secrets_do_not_reach_the_child(tmp_path: Path) -> None:
    # A process of its own: this one's forkserver may have started long ago.
    script = f"""
import json, os
from pathlib import Path
from worker.child import Order
from worker.outcomes import Limit
from worker.runner import run_child
if __name__ == "__main__":
    outcome = run_child(
        Order(entry={PREFIX + "show_environment"!r}, payload={{}}, scratch=Path({str(tmp_path)!r})),
        limit=Limit(60), grace_seconds=1, watch=lambda: None, on_progress=print,
    )
    assert os.environ["ZSQ_DATABASE_URL"], "the worker itself keeps them"
    print(json.dumps(outcome.value))
"""
    secrets = {
        "ZSQ_DATABASE_URL": "postgresql://u:hunter2@db/zsq",
        "ZSQ_BROKER_URL": "redis://:hunter2@broker/0",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_ACCESS_KEY_ID": "hunter2",
        "SOME_API_KEY": "hunter2",
        "DB_PASSWORD": "hunter2",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2",
        "https_proxy": "http://u:hunter2@proxy:3128",
        "INDEX": "https://u:hunter2@example.org/simple",
    }
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **secrets},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "hunter2" not in ran.stdout
    assert '"PATH"' in ran.stdout


@pytest.mark.parametrize("entry", [PREFIX + "ignore_everything", PREFIX + "hog", ESCAPES + "cling"])
def test_a_killed_parent_leaves_neither_child_nor_forkserver(tmp_path: Path, entry: str) -> None:
    """Though the child sits in native code: the kernel ends it with its forkserver, also if it would rather
    not have that."""
    pid_file = tmp_path / "pid"
    payload = {"pid_file": str(pid_file)}
    script = f"""
from pathlib import Path
from worker.child import Order
from worker.outcomes import Limit
from worker.runner import run_child
if __name__ == "__main__":
    run_child(
        Order(entry={entry!r}, payload={payload!r}, scratch=Path()),
        limit=Limit(600), grace_seconds=600, watch=lambda: None, on_progress=lambda news: None,
    )
"""
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        assert wait_for(pid_file.exists, 60), "the child never ran"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert int(pid_file.read_text()) in {process.pid for process in family}
        parent.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(family, timeout=30)[1]
