"""Budgets in iterations ignore time; budgets in seconds count from the beginning."""

from __future__ import annotations

import pytest

from core.methods.clock import Clock
from core.spec import Budget


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr("core.methods.clock.time.monotonic", lambda: time[0])
    return time


def test_iterations(now: list[float]) -> None:
    clock = Clock(Budget(iterations=4))
    now[0] += 1e6
    assert clock.share() == 0 and clock.training_share() == 0
    clock.iterations = 3
    assert clock.training_share() == 0.75 and clock.expected_iterations() == 4


def test_seconds(now: list[float]) -> None:
    clock = Clock(Budget(seconds=10))
    now[0] += 5
    clock.iterations = 20
    assert clock.training_share() == 0.5 and clock.expected_iterations() == 40
    now[0] += 5
    assert clock.training_share() == 1


def test_one_iteration_is_always_trained(now: list[float]) -> None:
    clock = Clock(Budget(seconds=10))
    now[0] += 50
    assert clock.training_share() < 1
    clock.iterations = 1
    assert clock.training_share() >= 1 and clock.expected_iterations() == 1
