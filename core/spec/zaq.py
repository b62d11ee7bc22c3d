"""Options of `zaq`, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from core.spec.budget import Budget
from core.spec.fields import CONFIG, NonNegative, Positive, Start
from core.spec.presets import check_start, resolve


@dataclass(frozen=True, slots=True)
class ZaqConfig:
    """Zero-shot adversarial quantization (ZAQ, arXiv 2103.15263).

    A generator searches for images on which teacher and student disagree; the student learns to
    agree on them. Options left out (null) take the preset's value, see `ZAQ_PRESETS`.
    """

    __pydantic_config__ = CONFIG

    name: Literal["zaq"] = "zaq"
    preset: Literal["service", "paper"] = "service"
    budget: Budget | None = None
    discrepancy: Literal["scrm", "crm"] | None = None
    batch_size: Annotated[int, Strict(), Field(ge=2, le=4096)] | None = None
    student_steps: Annotated[int, Strict(), Field(ge=1, le=100)] | None = None
    latent_dim: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    student_lr: Positive | None = None
    generator_lr: Positive | None = None
    weight_decay: NonNegative | None = None
    alpha: NonNegative | None = None
    beta: NonNegative | None = None
    bn_weight: NonNegative | None = None
    warmup_iterations: Annotated[int, Strict(), Field(ge=0)] | None = None
    fold_bn: Annotated[bool, Strict()] | None = None
    start: Start | None = None
    ranges: Literal["learned", "calibrated", "widening"] | None = None
    range_lr: Positive | None = None
    schedule: Literal["cosine", "steps"] | None = None
    clip_norm: Positive | None = None
    patience: Annotated[int, Strict(), Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        found = self.resolved()
        check_start(found.start, fold_bn=found.fold_bn, calibrated=found.ranges != "widening")

    def resolved(self) -> ZaqSettings:
        """Every absent option filled in from the preset."""
        return resolve(self, ZaqSettings, ZAQ_PRESETS)


@dataclass(frozen=True, slots=True)
class ZaqSettings:
    """What ZAQ runs with.

    L_Q = L1(logits) + alpha D;  L_G = -L1 - alpha D - beta mean|F| + bn_weight BNS  (core/methods/zaq.py).
    `warmup_iterations` of the generator alone on BNS come first. `start`: training starts from what `fast`
    answers, whose weight grids stay, or from weights rounded to nearest. `ranges`: activation ranges that are
    calibrated on distilled images, calibrated and then learned at `range_lr`, or widening with every
    batch. `schedule`: learning rates fall as a cosine to zero, or tenfold after each third.
    `clip_norm` bounds the gradient's norm, of each player. `patience`: iterations without progress on
    held-back images after which training ends; with it the best state is the result, null: the last.
    """

    preset: str
    budget: Budget
    discrepancy: Literal["scrm", "crm"]
    batch_size: int
    student_steps: int
    latent_dim: int
    student_lr: float
    generator_lr: float
    weight_decay: float
    alpha: float
    beta: float
    bn_weight: float
    warmup_iterations: int
    fold_bn: bool
    start: Start
    ranges: Literal["learned", "calibrated", "widening"]
    range_lr: float
    schedule: Literal["cosine", "steps"]
    clip_norm: float | None
    patience: int | None


ZAQ_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Stable and bounded; the values and the measurements behind them: docs/methods/zaq.md.
    "service": {
        "budget": Budget(iterations=40),
        "discrepancy": "crm",
        "batch_size": 64,
        "student_steps": 5,
        "latent_dim": 256,
        "student_lr": 1e-3,
        "generator_lr": 1e-3,
        "weight_decay": 0.0,
        "alpha": 0.1,
        "beta": 0.05,
        "bn_weight": 10.0,
        "warmup_iterations": 100,
        "fold_bn": True,
        "start": "fast",
        "ranges": "learned",
        "range_lr": 1e-3,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "patience": 20,
    },
    # The authors' code (CIFAR): 300 epochs x 60 iterations, batch 256.
    "paper": {
        "budget": Budget(iterations=18_000),
        "discrepancy": "scrm",
        "batch_size": 256,
        "student_steps": 5,
        "latent_dim": 256,
        "student_lr": 0.1,
        "generator_lr": 1e-3,
        "weight_decay": 5e-4,
        "alpha": 1.0,
        "beta": 0.1,
        "bn_weight": 0.0,
        "warmup_iterations": 0,
        "fold_bn": False,
        "start": "nearest",
        "ranges": "widening",
        "range_lr": 1e-3,
        "schedule": "steps",
        "clip_norm": None,
        "patience": None,
    },
}
