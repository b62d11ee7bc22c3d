"""What needs no running service; the rest is in tests/integration/test_stack.py."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

import pytest

from store.queue import CPU_QUEUE
from worker.__main__ import ROLES
from zsq.stack import Stack, StackError
from zsq.stack.stack import workers


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSQ_PORT", "8123")
    monkeypatch.setenv("ZSQ_DATA_DIR", str(tmp_path / "elsewhere"))
    stack = Stack()
    assert (stack.url, stack.data_dir) == ("http://127.0.0.1:8123", tmp_path / "elsewhere")
    assert Stack(port=0).port == 0


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_PORT", "http")
    with pytest.raises(StackError, match="port"):
        Stack()


@pytest.mark.parametrize(
    ("device", "gpu", "roles"),
    [
        ("auto", False, {"control": [], "cpu": []}),
        ("cpu", True, {"control": [], "cpu": []}),
        ("auto", True, {"control": [], "cpu": ["--queues", CPU_QUEUE], "gpu": []}),
        ("cuda:1", False, {"control": [], "cpu": ["--queues", CPU_QUEUE], "gpu": []}),
    ],
)
def test_where_there_is_a_gpu_it_gets_all_jobs_but_those_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, gpu: bool, roles: dict[str, list[str]]
) -> None:
    (tmp_path / "nvidiactl").touch()
    if gpu:
        (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("zsq.stack.stack._DEVICES", tmp_path)
    assert workers(device) == roles
    assert set(roles) <= set(ROLES)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="file/data"):
        Stack(tmp_path / "file" / "data", 0).start()


def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    env = {"ZSQ_DATABASE_URL": "sqlite:////proc/no/such/folder.db"}
    with pytest.raises(StackError, match="database cannot be migrated"):
        Stack(tmp_path, 0, env=env).start()


def test_a_signal_that_interrupts_the_wait_does_not_cut_the_stop_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Told(BaseException):
        pass

    def tell(number: int, frame: FrameType | None) -> None:
        raise Told

    stopped: list[bool] = []
    stack = Stack(tmp_path, 0)
    monkeypatch.setattr(stack, "_start_parts", lambda: None)
    monkeypatch.setattr(stack, "_stop_parts", lambda: (time.sleep(0.3), stopped.append(True)))
    before = signal.signal(signal.SIGALRM, tell)
    try:
        with pytest.raises(Told), stack:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            stack.wait()
        assert stopped
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
