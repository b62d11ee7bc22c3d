"""When a part that died is started again, and when it is given up."""

from __future__ import annotations

from collections import deque

FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
WINDOW_SECONDS = 60.0
DEATHS_IN_WINDOW = 5


class Restarts:
    """Times in seconds on the caller's clock."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()
        self.due: float | None = None

    def died(self, now: float) -> float | None:
        """The delay before the next start, doubling with each death; None to give up.

        A part that has run for a minute is taken for sound again.
        """
        while self._deaths and now - self._deaths[0] > WINDOW_SECONDS:
            self._deaths.popleft()
        self._deaths.append(now)
        if len(self._deaths) >= DEATHS_IN_WINDOW:
            return None
        delay: float = min(FIRST_DELAY * 2 ** (len(self._deaths) - 1), LONGEST_DELAY)
        self.due = now + delay
        return delay
