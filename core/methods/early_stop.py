"""Stops without data: teacher and student are compared on synthetic images that nobody trains on.

The images are drawn once, before training, and held back. Every few iterations the student answers
them; the state with the least loss is kept and is the result, and training that has not come below it
for `patience` iterations ends. The untrained state counts too: training can only be an improvement,
as far as synthetic images tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from core.fake_quant.insert import Student

EVERY = 5  # iterations between two measurements
IMAGES = 128

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Callable[[Tensor], Iterable[Tensor]]


class EarlyStop:
    """Watches `student` on `images_NCHW`, whose logits should be `wanted_NC` by the measure `loss`.

    `batches` cuts the images into those that the student is shown at once.
    """

    def __init__(
        self,
        student: Student,
        images_NCHW: Tensor,
        wanted_NC: Tensor,
        loss: Loss,
        patience: int,
        batches: Batches,
    ) -> None:
        self.student, self.images_NCHW, self.wanted_NC = student, images_NCHW, wanted_NC
        self.loss, self.patience, self.batches = loss, patience, batches
        self.best_loss, self.best_agreement, self.best_iteration = math.inf, 0.0, 0
        self._best = deepcopy(student.state_dict())
        self._measured = -1

    def measure(self, iteration: int) -> None:
        """After `iteration` iterations; keeps the state if it is the best so far."""
        self._measured = iteration
        with _evaluating(self.student), torch.no_grad():
            logits_NC = torch.cat([self.student(x_NCHW) for x_NCHW in self.batches(self.images_NCHW)])
        loss = self.loss(logits_NC, self.wanted_NC).item()
        if loss < self.best_loss:
            same = (logits_NC.argmax(1) == self.wanted_NC.argmax(1)).float().mean()
            self.best_loss, self.best_agreement, self.best_iteration = loss, 100 * same.item(), iteration
            self._best = deepcopy(self.student.state_dict())

    def is_over(self, iteration: int) -> bool:
        """Whether `iteration` iterations have passed and the last `patience` brought nothing."""
        if iteration % EVERY == 0:
            self.measure(iteration)
        return iteration - self.best_iteration >= self.patience

    def finish(self, iteration: int) -> dict[str, float]:
        """Takes the student back to its best state, and says what it was."""
        if self._measured != iteration:
            self.measure(iteration)
        self.student.load_state_dict(self._best)
        return {
            "held_back_loss": self.best_loss,
            "held_back_agreement": self.best_agreement,
            "best_iteration": float(self.best_iteration),
        }

    def state_dict(self) -> dict[str, Any]:
        """With the images and what is wanted of them, which cannot be drawn a second time."""
        return {
            "images": self.images_NCHW,
            "wanted": self.wanted_NC,
            "best": dict(self._best),
            "best_loss": self.best_loss,
            "best_agreement": self.best_agreement,
            "best_iteration": self.best_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but the images, which it was made with."""
        self._best, self.best_iteration = dict(state["best"]), int(state["best_iteration"])
        self.best_loss, self.best_agreement = float(state["best_loss"]), float(state["best_agreement"])


@contextmanager
def _evaluating(student: Student) -> Iterator[None]:
    """Nothing that the student sees inside changes its statistics or its ranges."""
    training, quantizers = student.training, list(student.activation_quantizers().values())
    observers = [quantizer.observer for quantizer in quantizers]
    student.eval()
    for quantizer in quantizers:
        quantizer.observer = None
    try:
        yield
    finally:
        student.train(training)
        for quantizer, observer in zip(quantizers, observers, strict=True):
            quantizer.observer = observer
