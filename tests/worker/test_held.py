from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.held import Held, hold


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path):
        with pytest.raises(Held), hold(path):
            pass
        assert path.exists()
    assert not path.exists()
    with hold(path):
        pass


def test_many_that_wait_hold_it_one_after_another(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "lock", [], []
    guard = threading.Lock()

    def enter(n: int) -> None:
        with hold(path, wait=True):
            with guard:
                inside.append(n)
                most.append(len(inside))
            with guard:
                inside.remove(n)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))
    assert set(most) == {1} and len(most) == 200
