from __future__ import annotations

import threading
from collections import namedtuple
from pathlib import Path

import pytest
from alembic import command

from store import doctor
from store.blobs import make_blobs
from store.database import Database, make_engine
from store.findings import Check, Failure, Finding, examine
from store.migrate import alembic_config
from store.settings import StoreSettings


def test_checks_run_side_by_side_and_one_that_hangs_is_given_up() -> None:
    never, met = threading.Event(), threading.Barrier(2, timeout=30)

    def fail() -> str:
        raise Failure("broken", "mend it")

    def stumble() -> str:
        raise ConnectionError("at redis://:hunter2@host/0\nand more")

    found = examine(
        [
            Check("hangs", lambda: str(never.wait()), "look there", 0.2),
            Check("meets", lambda: str(met.wait()), ""),
            Check("meets too", lambda: str(met.wait()), ""),
            Check("fails", fail, ""),
            Check("stumbles", stumble, "see the log"),
        ]
    )
    never.set()
    assert [each.level for each in found] == ["failure", "ok", "ok", "failure", "failure"]
    assert found[0] == Finding("hangs", "failure", "no answer within 0.2 s", "look there")
    assert found[3] == Finding("fails", "failure", "broken", "mend it")
    assert found[4].detail == "ConnectionError: at redis://:***@host/0" and found[4].advice == "see the log"


def test_the_database_is_looked_at(database: Database) -> None:
    assert "hunter" not in doctor.reachable(database)
    assert doctor.migrations(database) == "the newest"
    said = doctor.clock(database)
    assert isinstance(said, str)
    config = alembic_config()
    with database.writing_engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with pytest.raises(Failure, match="lacks migrations"):
        doctor.migrations(database)
    with database.writing_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'later'")
    ahead = doctor.migrations(database)
    assert isinstance(ahead, Finding) and ahead.level == "warning"
    with database.writing_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def test_a_clock_that_is_off_is_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SKEW_SECONDS", -1.0)
    database = Database(make_engine(postgres_url))
    found = doctor.clock(database)
    database.dispose()
    assert isinstance(found, Finding) and "the database" in found.detail and found.advice


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "writable" in str(doctor.data_folder(tmp_path / "new"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(10, 10, 2**20))
    found = doctor.data_folder(tmp_path)
    assert isinstance(found, Finding) and found.level == "warning"


def test_looking_at_blobs_leaves_none_behind(tmp_path: Path) -> None:
    doctor.blobs(make_blobs(tmp_path.as_uri()))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_default_broker_may_be_absent_and_one_that_was_named_may_not(broker_url: str) -> None:
    assert "zsq.control" in str(doctor.broker(StoreSettings(broker_url=broker_url)))
    with pytest.raises(Exception, match="refused"):
        doctor.broker(StoreSettings(broker_url="redis://127.0.0.1:1/0"))


def test_no_database_is_made_by_looking_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ZSQ_BROKER_URL", "redis://127.0.0.1:1/0")
    found = {each.check: each for each in doctor.findings()}
    assert found["database"].level == "warning" and "migrations" not in found
    assert not (tmp_path / "zsq.db").exists()
