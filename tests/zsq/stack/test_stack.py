"""What needs no running service; the rest is in tests/integration/test_stack.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsq.stack import Stack, StackError


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


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="file/data"):
        Stack(tmp_path / "file" / "data", 0).start()


def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    env = {"ZSQ_DATABASE_URL": "sqlite:////proc/no/such/folder.db"}
    with pytest.raises(StackError, match="database cannot be migrated"):
        Stack(tmp_path, 0, env=env).start()
