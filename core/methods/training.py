"""The loop around a method's iterations: learning rates, budget, divergence, early stop, saving, news."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from core.errors import Diverged
from core.memory import Batched, within_memory
from core.methods.attempt import Attempt
from core.methods.base import Summary, thinned
from core.methods.early_stop import EarlyStop
from core.methods.guard import Guard, Part
from core.methods.random_state import random_state, set_random_state

Losses = dict[str, float]


class Trainee(Batched, Protocol):
    """What plays or learns, one iteration at a time."""

    def iteration(self) -> Losses:
        """Its losses, of which "student" is watched. Raises Diverged when activations are not finite."""

    def set_rates(self, done: float, factor: float) -> None:
        """Learning rates when the share `done` of the budget is spent, times `factor`."""

    def early_stop(self, held_back: tuple[Tensor, Tensor] | None = None) -> EarlyStop | None:
        """On these images and wanted logits, or on fresh ones; None where training has no patience."""

    def parts(self) -> Sequence[Part]:
        """All that has a state to go back to."""

    def restored(self) -> None:
        """Called after going back."""

    def state_dict(self) -> dict[str, Any]:
        """Its parts, and all else that further iterations depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises errors of any kind where the state does not fit."""


T = TypeVar("T", bound=Trainee)


class Training(Generic[T]):
    """The training of `trainee` under way, with all that its further iterations depend on.

    `held_back` are the images and wanted logits that early stop has looked at so far; None draws fresh ones.
    """

    def __init__(self, trainee: T, attempt: Attempt, held_back: tuple[Tensor, Tensor] | None = None) -> None:
        self.trainee, self.attempt = trainee, attempt
        self.clock, self.notes = attempt.clock, attempt.notes
        self.stop = trainee.early_stop(held_back)
        self.guard = Guard(trainee.parts(), "student", self.notes, restored=trainee.restored)
        self.history: list[Losses] = []

    def run(self) -> dict[str, float]:
        """Until the budget is spent or nothing gets better; then the student and its ranges are frozen.

        What early stop found. Raises Diverged and Stopped's subclasses.
        """
        clock, stop, save_point = self.clock, self.stop, self.attempt.save_point
        with self.attempt.context.saving():
            save_point.reach(self.state_dict)
            while (done := clock.training_share()) < 1 and not (stop and stop.is_over(clock.iterations)):
                self._iterate(done)
                save_point.reach(self.state_dict)
        self.attempt.student.eval()
        self.attempt.student.learn_ranges(False)
        return stop.finish(clock.iterations) if stop else {}

    def _iterate(self, done: float) -> None:
        self.trainee.set_rates(done, self.guard.rate)
        try:
            losses = within_memory(self.trainee, self.notes, self.trainee.iteration)
        except Diverged:
            losses = {"student": math.nan}
        self.clock.iterations += 1
        iteration = self.clock.iterations
        if self.guard.accepts(iteration, losses):
            self.attempt.context.step(iteration, self.clock.expected_iterations(), losses)
            self.history.append({"iteration": float(iteration), **losses})

    def summary(self, images: Tensor, measures: Losses, labels: Tensor | None = None) -> Summary:
        """Of the whole method, earlier attempts included; see `core.methods.base.Summary`."""
        return Summary(
            iterations=self.clock.iterations,
            seconds=self.clock.seconds(),
            stopped_by=self.clock.stopped_by(),
            images=images,
            labels=labels,
            losses=thinned(self.history),
            measures=measures,
            settings=asdict(self.attempt.settings),
            notes=self.notes,
        )

    def state_dict(self) -> dict[str, Any]:
        """Between two iterations. Tensors are those in use, not copies."""
        return {
            "trainee": self.trainee.state_dict(),
            "guard": self.guard.state_dict(),
            "stop": self.stop.state_dict() if self.stop else None,
            "history": _columns(self.history),
            "random": random_state(self.attempt.context.device),
            "clock": self.clock.state_dict(),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but the trainee's, which comes first: early stop is made from it."""
        self.guard.load_state_dict(state["guard"])
        if self.stop:
            self.stop.load_state_dict(state["stop"])
        self.history = _rows(state["history"])
        notes = [str(note) for note in state["notes"]]
        set_random_state(state["random"], self.attempt.context.device)
        self.clock.load_state_dict(state["clock"])
        self.notes[:] = [*notes, f"Interrupted, and resumed after iteration {self.clock.iterations}."]
        self.attempt.save_point.mark()


def _columns(history: list[Losses]) -> dict[str, Any]:
    """One tensor: tens of thousands of dictionaries would take long to write, and to check on reading."""
    names = list(dict.fromkeys(name for losses in history for name in losses))
    rows = [[losses.get(name, math.nan) for name in names] for losses in history]
    return {"names": names, "values": torch.tensor(rows, dtype=torch.float64)}


def _rows(columns: dict[str, Any]) -> list[Losses]:
    names, rows = columns["names"], columns["values"].tolist()
    return [
        {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)} for row in rows
    ]
