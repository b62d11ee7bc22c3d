from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.doubles import PREFIX
from worker.child import Order
from worker.hardening import MAX_OPEN_FILES
from worker.outcomes import Failed, Finished, Limit, Outcome
from worker.runner import run_child

MIB = 2**20


def run(scratch: Path, double: str, payload: dict[str, Any] | None = None, **options: Any) -> Outcome:
    return run_child(
        Order(entry=PREFIX + double, payload=payload or {}, scratch=scratch, **options),
        limit=Limit(60),
        grace_seconds=1,
        watch=lambda: None,
        on_progress=lambda news: None,
    )


def test_a_child_has_limits_and_no_privileges(tmp_path: Path) -> None:
    outcome = run(tmp_path, "show_limits", file_bytes=7 * MIB)
    assert isinstance(outcome, Finished), outcome
    assert outcome.value == {
        "core": [0, 0],
        "files": [MAX_OPEN_FILES, MAX_OPEN_FILES],
        "file_bytes": [7 * MIB, 7 * MIB],
        "privileges": [0, 0, 0],
        "no_new_privileges": 1,
        "mode": 0o600,
    }


@pytest.mark.parametrize("writer", ["python", "torch", "safetensors"])
def test_a_file_that_grows_too_large_is_told_clearly(tmp_path: Path, writer: str) -> None:
    outcome = run(tmp_path, "write_too_much", {"writer": writer}, file_bytes=2 * MIB)
    assert isinstance(outcome, Failed) and outcome.failure["code"] == "file_too_large", outcome
    assert not outcome.failure["retryable"]


@pytest.mark.parametrize(
    ("then", "code"), [("hand back", "handed_back"), ("diverge", "diverged"), ("stumble", "internal_error")]
)
def test_a_file_limit_that_was_survived_explains_nothing(tmp_path: Path, then: str, code: str) -> None:
    outcome = run(tmp_path, "survive_the_file_limit", {"then": then}, file_bytes=2 * MIB)
    assert isinstance(outcome, Failed) and outcome.failure["code"] == code, outcome


def test_a_file_may_meet_its_limit_at_any_moment() -> None:
    """The signal comes at every line of what asks for it, and nothing waits for ever."""
    script = """
import signal, sys
from worker import hardening
hardening.confine(2**20)
def interrupt(frame, event, argument):
    signal.raise_signal(signal.SIGXFSZ)
    return interrupt
sys.settrace(interrupt)
hardening.survived_file_limit()
met = hardening.met_file_limit()
sys.settrace(None)
assert met
hardening.survived_file_limit()
assert not hardening.met_file_limit()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own protection")
@pytest.mark.parametrize(
    "privileges", ["pass", "drop_capabilities()"], ids=["as it is", "without privileges"]
)
def test_a_child_can_read_neither_memory_nor_environment_of_its_worker(
    tmp_path: Path, privileges: str
) -> None:
    # A worker of its own: what it hides, pytest's own process need not.
    script = f"""
import json, os
from pathlib import Path
from tests.worker.test_hardening import run
from worker.hardening import drop_capabilities, hide_memory
if __name__ == "__main__":
    {privileges}
    hide_memory()
    print(json.dumps(run(Path({str(tmp_path)!r}), "spy", {{"pid": os.getpid()}}).value))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(ran.stdout).values()) == {"PermissionError"}
