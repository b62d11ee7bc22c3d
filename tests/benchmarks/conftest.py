from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs in benchmarks/ import each other as the interpreter finds them when it runs one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
