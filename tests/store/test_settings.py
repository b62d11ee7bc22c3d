from __future__ import annotations

from pathlib import Path

import pytest

from store.settings import StoreSettings


def test_everything_lives_in_the_data_folder_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = StoreSettings()
    assert settings.data_dir == tmp_path / ".zsq"
    assert settings.database_url == f"sqlite:///{tmp_path}/.zsq/zsq.db"
    assert settings.blobs_url == f"file://{tmp_path}/.zsq/blobs"


def test_the_environment_moves_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_DATA_DIR", "/srv/zsq")
    monkeypatch.setenv("ZSQ_DATABASE_URL", "postgresql://db/zsq")
    settings = StoreSettings()
    assert settings.database_url == "postgresql://db/zsq"
    assert settings.blobs_url == "file:///srv/zsq/blobs"
