from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import redis

from zsq.stack.broker import Broker
from zsq.stack.part import Part


def started(folder: Path) -> tuple[Broker, Part]:
    broker = Broker(folder)
    part = Part("broker", broker.command, dict(os.environ), folder / "logs")
    part.start()
    while not broker.answers():
        assert part.ended() is None, part.last_words()
    return broker, part


def test_the_broker_wants_its_password_and_keeps_its_messages(tmp_path: Path) -> None:
    # A folder with a space in its name, as homes have.
    folder = tmp_path / "my data"
    broker, part = started(folder)
    try:
        redis.Redis.from_url(broker.url).lpush("queue", "message")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=int(broker.url.rsplit(":", 1)[1].split("/")[0])).ping()
    finally:
        part.terminate()
        part.finish(lambda: True)
    assert not broker.answers()
    broker, part = started(folder)
    try:
        assert redis.Redis.from_url(broker.url).llen("queue") == 1
    finally:
        part.finish()


def test_the_password_is_for_its_owner_alone(tmp_path: Path) -> None:
    Broker(tmp_path)
    assert stat.S_IMODE((tmp_path / "valkey.conf").stat().st_mode) == 0o600
