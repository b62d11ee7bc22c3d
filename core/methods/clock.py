"""How much of a method's budget is spent."""

from __future__ import annotations

import time
from typing import Any, Literal

from core.spec import Budget


class Clock:
    """Counts iterations of training; seconds from the method's very beginning, synthesis included."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.began = time.monotonic()
        self.iterations = 0

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def share(self) -> float:
        """Of the seconds; 0 where iterations are what is counted."""
        return self.seconds() / self.budget.seconds if self.budget.seconds else 0.0

    def training_share(self) -> float:
        if self.budget.iterations:
            return self.iterations / self.budget.iterations
        # Whatever synthesis took, at least one iteration is trained.
        return self.share() if self.iterations else min(self.share(), 0.99)

    def expected_iterations(self) -> int:
        """0 while that cannot be told."""
        if self.budget.iterations:
            return self.budget.iterations
        if not self.iterations:
            return 0
        return max(self.iterations, round(self.iterations / min(1.0, self.share())))

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "seconds": self.seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What an earlier attempt spent is added to what this one has."""
        iterations, seconds = int(state["iterations"]), float(state["seconds"])
        self.iterations += iterations
        self.began -= seconds

    def stopped_by(self) -> Literal["iterations", "seconds", "no_progress"]:
        """Why training ended: what the budget counts, or, with budget left, for lack of progress."""
        if self.training_share() < 1:
            return "no_progress"
        return "iterations" if self.budget.iterations else "seconds"
