"""The student's optimizer, and learning rates that fall as the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch.optim import SGD, Adam, Optimizer

from core.fake_quant.insert import Student, parameters_in_groups


def student_optimizer(
    student: Student,
    kind: Literal["sgd", "nesterov", "adam"],
    *,
    lr: float,
    weight_decay: float,
    range_lr: float | None,
) -> Optimizer:
    """Of weights and biases at `lr`, and of activation scales at `range_lr`, which null leaves as they are.

    SGD has momentum .9, Nesterov's or plain.
    """
    weights, scales = parameters_in_groups(student)
    groups: list[dict[str, Any]] = [{"params": weights, "lr": lr, "weight_decay": weight_decay}]
    if range_lr is not None:
        student.learn_ranges(True)
        groups.append({"params": scales, "lr": range_lr})
    if kind == "adam":
        return Adam(groups, lr=lr)
    return SGD(groups, lr=lr, momentum=0.9, nesterov=kind == "nesterov")


class Schedule:
    """Lets the learning rates of several optimizers fall together from what they are now.

    As a cosine to zero, or tenfold after each of `parts` equal parts of the budget but the last.
    """

    def __init__(self, optimizers: Sequence[Optimizer], kind: Literal["cosine", "steps"], parts: int) -> None:
        self.optimizers, self.kind, self.parts = optimizers, kind, parts
        self._rates = [[group["lr"] for group in o.param_groups] for o in optimizers]

    def set(self, done: float, factor: float) -> float:
        """Sets the rates for the share `done` of the budget, times `factor`; returns what they fell to."""
        cosine = self.kind == "cosine"
        fall = 0.5 + 0.5 * math.cos(math.pi * done) if cosine else 0.1 ** int(self.parts * done)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * fall * factor
        return fall * factor
