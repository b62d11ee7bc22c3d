"""The loop around a method's iterations: learning rates, budget, divergence, early stop, news."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from core.context import RunContext
from core.errors import Diverged
from core.memory import Batched, within_memory
from core.methods.clock import Clock
from core.methods.early_stop import EarlyStop
from core.methods.guard import Guard, Part

Losses = dict[str, float]


class Trainee(Batched, Protocol):
    """What plays or learns, one iteration at a time."""

    def iteration(self) -> Losses:
        """Its losses, of which "student" is watched. Raises Diverged when activations are not finite."""

    def set_rates(self, done: float, factor: float) -> None:
        """Learning rates when the share `done` of the budget is spent, times `factor`."""

    def parts(self) -> Sequence[Part]:
        """All that has a state to go back to."""

    def restored(self) -> None:
        """Called after going back."""


def train(
    trainee: Trainee, clock: Clock, context: RunContext, notes: list[str], stop: EarlyStop | None
) -> list[Losses]:
    """The losses of each iteration, until the budget is spent or nothing gets better. Raises Diverged."""
    history: list[Losses] = []
    guard = Guard(trainee.parts(), "student", notes, restored=trainee.restored)
    while (done := clock.training_share()) < 1 and not (stop and stop.is_over(clock.iterations)):
        trainee.set_rates(done, guard.rate)
        try:
            losses = within_memory(trainee, notes, trainee.iteration)
        except Diverged:
            losses = {"student": math.nan}
        clock.iterations += 1
        if guard.accepts(clock.iterations, losses):
            context.step(clock.iterations, clock.expected_iterations(), losses)
            history.append({"iteration": float(clock.iterations), **losses})
    return history
