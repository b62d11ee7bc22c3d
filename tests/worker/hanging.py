"""A blob folder that hangs, as on a mount that is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.worker.waiting import wait_for


class Hanging:
    """From now on whoever calls this waits until it is `released`; then the call goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        self.begun, self.released, self.calls = threading.Event(), threading.Event(), 0
        original = getattr(owner, method)

        def hang(*args: Any, **values: Any) -> Any:
            self.calls += 1
            self.begun.set()
            assert self.released.wait(120)  # longer than any test waits for who must not wait for it
            return original(*args, **values)

        monkeypatch.setattr(owner, method, hang)

    def release(self) -> None:
        """What was left behind has ended after this."""
        self.released.set()
        assert wait_for(lambda: not left_behind())


def left_behind() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "blob store"]
