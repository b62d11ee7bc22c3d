"""What the reliability harness decides by itself; tests/integration/test_reliability.py runs the rest."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import psutil
import pytest

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def kill_matrix() -> ModuleType:
    return importlib.import_module("faults.kill_matrix")


def events(*told: tuple[float, str, str]) -> list[Any]:
    """(Seconds, kind, value) each."""
    records = importlib.import_module("faults.records")
    return [records.Event(after(at), kind, {kind: value}) for at, kind, value in told]


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


PASSED = (
    (0, "status", "queued"),
    (1, "status", "running"),
    (2, "phase", "training"),
    (4, "phase", "evaluating"),
    (5, "status", "succeeded"),
)
LOST = (*PASSED[:3], (9, "status", "queued"), (10, "status", "running"), (11, "phase", "training"))


@pytest.mark.parametrize("target", ["API", "Valkey", "PostgreSQL"])
def test_a_kill_that_ends_no_attempt_hits_between_two_events(kill_matrix: ModuleType, target: str) -> None:
    found = [kill_matrix.was_hit(target, "training", after(at), events(*PASSED)) for at in (1.5, 3, 4.5)]
    assert found == [False, True, False]


@pytest.mark.parametrize("target", ["child", "worker"])
def test_a_kill_that_ends_an_attempt_hits_when_it_went_no_further(
    kill_matrix: ModuleType, target: str
) -> None:
    assert kill_matrix.was_hit(target, "training", after(3), events(*LOST))
    # The event of the next phase was on its way, and was written after the kill.
    assert not kill_matrix.was_hit(target, "training", after(3.9), events(*PASSED))


def test_a_queued_job_is_hit_before_it_runs(kill_matrix: ModuleType) -> None:
    assert kill_matrix.was_hit("worker", "queued", after(0.5), events(*PASSED))
    assert not kill_matrix.was_hit("worker", "queued", after(1.5), events(*PASSED))


def test_every_pair_is_a_cell_or_says_why_it_is_none(kill_matrix: ModuleType) -> None:
    pairs = {(target, phase) for target in kill_matrix.TARGETS for phase in kill_matrix.PHASES}
    assert set(kill_matrix.CELLS) | set(kill_matrix.NOT_VALID) == pairs
    assert not set(kill_matrix.CELLS) & set(kill_matrix.NOT_VALID)


def test_a_session_is_known_until_its_number_is_given_away() -> None:
    """What would be killed as left over must be none of a stranger's processes."""
    process = importlib.import_module("faults.process")
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        process.wait_for(lambda: len(process.in_sessions({leader.pid: math.inf})) == 2, 30, "both run")
        began = psutil.Process(leader.pid).create_time()
        assert process.in_sessions({leader.pid: began - 1}) == []
        leader.kill()
        leader.wait()
        (left,) = process.in_sessions({leader.pid: time.time()})
        assert left.name() == "sleep"
    finally:
        for each in process.in_sessions({leader.pid: math.inf}):
            each.kill()
        leader.wait()


def test_a_section_made_again_replaces_its_old_self_and_no_other() -> None:
    page = importlib.import_module("faults.page")
    head = ["# Title", "", "Words."]
    old = [page.Section(name, "Old.", ["| a |"], []) for name in ("One", "Two")]
    written = "\n".join(page.merged("", head, old)) + "\n"
    again = "\n".join(page.merged(written, head, [page.Section("One", "New.", ["| b |"], [])])) + "\n"
    assert again == written.replace("Old.\n\n| a |", "New.\n\n| b |", 1)
