"""The generator learns alone before the student learns from it."""

from __future__ import annotations

from typing import Protocol

from core.memory import Batched, within_memory
from core.methods.attempt import Attempt
from core.methods.prepare import SYNTHESIS_SHARE
from core.methods.training import Losses


class WarmingUp(Batched, Protocol):
    def warm_up_step(self) -> Losses: ...


def warm_up(trainee: WarmingUp, attempt: Attempt, *, steps: int, least: int, before: int) -> None:
    """`steps` steps, or `least` where a budget in seconds has no more; `before` others were reported."""
    for step in range(steps):
        if step >= least and attempt.clock.share() > SYNTHESIS_SHARE:
            return
        losses = within_memory(trainee, attempt.notes, trainee.warm_up_step)
        attempt.context.step(before + step + 1, before + steps, losses)
