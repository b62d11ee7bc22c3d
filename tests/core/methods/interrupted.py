"""Attempts at a method that are stopped between two iterations, and what they leave."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from core.context import Progress, RunContext
from core.errors import HandedBack
from core.methods import registry
from core.methods.base import Summary
from tests.core.methods.trained import TrainedConfig, context, state, student_of

Outcome = tuple[dict[str, Tensor], Summary]


class Killed(Exception):
    """Stands for SIGKILL: nothing is done after it."""


class Attempts:
    """Attempts at one run, each with a student and random numbers as a new process has them.

    `kept` are the files that were handed over, `iterations` those that were trained, over all attempts.
    """

    def __init__(self, teacher: fx.GraphModule, config: TrainedConfig, scratch: Path, **options: Any) -> None:
        self.teacher, self.config, self.scratch, self.options = teacher, config, scratch, options
        self.kept: list[Path] = []
        self.iterations: list[int] = []
        self.news: list[Progress] = []

    def run(self, **options: Any) -> Outcome:
        torch.manual_seed(1234)
        random.seed(1234)
        student = student_of(self.teacher, self.config)
        run = self.context(**options)
        summary = registry.run(deepcopy(self.teacher), student, self.config, run)
        return state(student), summary

    def hand_back(self, after: int) -> None:
        """The last file is the state after that many iterations."""
        try:
            self.run(hand_back=lambda: bool(self.iterations) and self.iterations[-1] >= after)
        except HandedBack:
            return
        raise AssertionError("the run was not handed back")

    def kill(self, during: int) -> None:
        """Before anything is saved of that iteration."""

        def emit(news: Progress) -> None:
            if news.phase == "training" and news.step == during:
                raise Killed

        try:
            self.run(told=emit)
        except Killed:
            return
        raise AssertionError("the run was not killed")

    def context(self, told: Callable[[Progress], None] = lambda news: None, **options: Any) -> RunContext:
        def emit(news: Progress) -> None:
            self.news.append(news)
            if news.phase == "training" and news.metrics:
                self.iterations.append(news.step)
            told(news)

        last = self.kept[-1] if self.kept else None
        wanted = {"keep": self.kept.append, "resume_from": last, **self.options, **options}
        return context(self.scratch, emit=emit, interval=0.0, **wanted)


def same(one: Outcome, other: Outcome) -> bool:
    """Bit by bit: student, images, losses and measures."""
    (student, summary), (other_student, other_summary) = one, other
    assert student.keys() == other_student.keys()
    return (
        all(torch.equal(value, other_student[name]) for name, value in student.items())
        and torch.equal(summary.images, other_summary.images)
        and summary.losses == other_summary.losses
        and summary.measures == other_summary.measures
        and (summary.iterations, summary.stopped_by) == (other_summary.iterations, other_summary.stopped_by)
    )
