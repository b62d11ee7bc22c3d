"""Hours of work must not be lost to a short outage of what their end is written to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

# Seconds between one try and the next.
PAUSES = (0.5, 1.0, 2.0, 4.0)

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def patiently(
    do: Callable[[], _Result],
    borne: type[Exception],
    complaint: str,
    go_on: Callable[[], bool] = lambda: True,
) -> _Result:
    """What `do` returns, tried again after each of the pauses while it raises what is `borne`.

    Raises that after the last one, or as soon as `go_on`, which is asked after each, says no.
    """
    for pause in PAUSES:
        try:
            return do()
        except borne:
            log.warning("%s; trying again in %g s", complaint, pause, exc_info=True)
            time.sleep(pause)
            if not go_on():
                raise
    return do()
