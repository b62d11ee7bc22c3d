"""For what comes true by itself, sooner or later."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object],
    seconds: float = 60,
    complaint: str | Callable[[], str] = "did not come true",
) -> None:
    """Returns once it is true. Fails after `seconds`, which are many: machines that run tests may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint if isinstance(complaint, str) else complaint()
        time.sleep(0.02)
