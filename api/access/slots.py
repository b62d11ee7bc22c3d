"""How many of something an owner may have open at the same time, in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """For one event loop: nothing here waits. `allowed` 0 is no limit."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self._taken: Counter[str] = Counter()

    def used(self, owner: str) -> int:
        return self._taken.get(owner, 0)

    @contextmanager
    def one(self, owner: str) -> Iterator[bool]:
        """Whether there was one left; it is given back at the end."""
        if self.allowed and self.used(owner) >= self.allowed:
            yield False
            return
        self._taken[owner] += 1
        try:
            yield True
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
