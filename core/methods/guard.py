"""Training that diverges goes back to its last good state, more slowly each time, and gives up in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

from core.errors import Diverged

KEEP_EVERY = 20  # iterations between two good states
EXPLODED = 20.0  # times the loss of the first iterations
NEGLIGIBLE = 1e-2  # a loss below this, rounding noise where student and teacher agree, cannot explode
RETREATS = 4


class Part(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Guard:
    """Keeps good states of `parts`; `rate` is the factor that learning rates are to be multiplied with.

    A loss that is not finite, or a `watched` loss that has grown `EXPLODED`-fold, restores the last
    good state, halves `rate`, calls `restored`, and leaves a sentence in `notes`.
    """

    def __init__(
        self, parts: Sequence[Part], watched: str, notes: list[str], restored: Callable[[], None]
    ) -> None:
        self.parts, self.watched, self.notes, self.restored = parts, watched, notes, restored
        self.rate = 1.0
        self._retreats = 0
        self._first = math.inf
        self._good = self._state()

    def accepts(self, iteration: int, losses: Mapping[str, float]) -> bool:
        """Whether the iteration (from 1) stands. Raises Diverged after `RETREATS` retreats."""
        if iteration <= 3:
            self._first = min(self._first, losses[self.watched])
        limit = EXPLODED * max(self._first, NEGLIGIBLE)
        if all(map(math.isfinite, losses.values())) and losses[self.watched] <= limit:
            if iteration % KEEP_EVERY == 0:
                self._good = self._state()
            return True
        self._retreats += 1
        if self._retreats > RETREATS:
            raise Diverged(
                f"Training diverged {self._retreats} times, the last time in iteration {iteration}. "
                "Lower the learning rates, or use the service preset.",
                field="method",
            )
        for part, state in zip(self.parts, self._good, strict=True):
            part.load_state_dict(deepcopy(state))
        self.restored()
        self.rate /= 2
        self.notes.append(f"Iteration {iteration} diverged: back to a good state, learning rates halved.")
        return False

    def state_dict(self) -> dict[str, Any]:
        good = [dict(state) for state in self._good]
        return {"rate": self.rate, "retreats": self._retreats, "first": self._first, "good": good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate, self._first = float(state["rate"]), float(state["first"])
        self._retreats, self._good = int(state["retreats"]), list(state["good"])

    def _state(self) -> list[dict[str, Any]]:
        return [deepcopy(part.state_dict()) for part in self.parts]
