"""Options of `gdfq`, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from core.spec.budget import Budget
from core.spec.fields import CONFIG, NonNegative, Positive, Start
from core.spec.presets import check_start, resolve


@dataclass(frozen=True, slots=True)
class GdfqConfig:
    """Generative low-bitwidth data-free quantization (GDFQ, arXiv 2003.03603).

    A generator learns to make images that the teacher takes for a given class and whose statistics
    its batch normalization knows; the student learns the teacher's answers on them. Options left out
    (null) take the preset's value, see `GDFQ_PRESETS`.
    """

    __pydantic_config__ = CONFIG

    name: Literal["gdfq"] = "gdfq"
    preset: Literal["service", "paper"] = "service"
    budget: Budget | None = None
    generator: Literal["product", "conditional"] | None = None
    generator_eps: Positive | None = None
    batch_size: Annotated[int, Strict(), Field(ge=2, le=4096)] | None = None
    student_steps: Annotated[int, Strict(), Field(ge=1, le=100)] | None = None
    distilled_images: Annotated[int, Strict(), Field(ge=0, le=4096)] | None = None
    latent_dim: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    warmup_iterations: Annotated[int, Strict(), Field(ge=1)] | None = None
    optimizer: Literal["nesterov", "adam"] | None = None
    student_lr: Positive | None = None
    generator_lr: Positive | None = None
    weight_decay: NonNegative | None = None
    ce_weight: NonNegative | None = None
    kl_weight: NonNegative | None = None
    temperature: Positive | None = None
    bn_weight: NonNegative | None = None
    statistics: Literal["std", "variance"] | None = None
    fold_bn: Annotated[bool, Strict()] | None = None
    start: Start | None = None
    ranges: Literal["learned", "calibrated", "average"] | None = None
    range_lr: Positive | None = None
    schedule: Literal["cosine", "steps"] | None = None
    clip_norm: Positive | None = None
    patience: Annotated[int, Strict(), Field(ge=1)] | None = None
    inundation: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None

    def __post_init__(self) -> None:
        found = self.resolved()
        check_start(found.start, fold_bn=found.fold_bn, calibrated=found.ranges != "average")

    def resolved(self) -> GdfqSettings:
        """Every absent option filled in from the preset."""
        return resolve(self, GdfqSettings, GDFQ_PRESETS)


@dataclass(frozen=True, slots=True)
class GdfqSettings:
    """What GDFQ runs with.

    L_G = CE(P(x), y) + bn_weight BNS;  L_S = ce_weight CE(S(x), y) + kl_weight T^2 KL
    (core/methods/gdfq.py). `generator` null: by the image's side; `generator_eps` that of its batch
    normalizations (`core.synthesis.conditional`). The generator alone takes
    `warmup_iterations` first; then every iteration is one step of it and `student_steps` of the student.
    Every second of these but the first sees some of `distilled_images` instead of the generator's.
    `statistics`: which measure BNS is. `start`: training starts from what `fast` answers, whose weight grids
    stay, or from weights rounded to nearest. `ranges`: activation ranges calibrated on distilled images,
    calibrated and then learned at `range_lr`, or moving averages over the warm-up. `schedule`:
    learning rates fall as a cosine to zero, or tenfold after each quarter. `clip_norm` bounds the norm of
    the student's gradient. `inundation`: the share of a layer's integer weights that a step changes at
    least. `patience`: iterations without progress on held-back images after which training ends; with
    it the best state is the result, null: the last.
    """

    preset: str
    budget: Budget
    generator: Literal["product", "conditional"] | None
    generator_eps: float
    batch_size: int
    student_steps: int
    distilled_images: int
    latent_dim: int
    warmup_iterations: int
    optimizer: Literal["nesterov", "adam"]
    student_lr: float
    generator_lr: float
    weight_decay: float
    ce_weight: float
    kl_weight: float
    temperature: float
    bn_weight: float
    statistics: Literal["std", "variance"]
    fold_bn: bool
    start: Start
    ranges: Literal["learned", "calibrated", "average"]
    range_lr: float
    schedule: Literal["cosine", "steps"]
    clip_norm: float | None
    patience: int | None
    inundation: float | None


GDFQ_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Bounded; the values and the measurements behind them: docs/methods/gdfq.md.
    "service": {
        "budget": Budget(iterations=40),
        "generator": "conditional",
        "generator_eps": 1e-5,
        "batch_size": 64,
        "student_steps": 4,
        "distilled_images": 256,
        "latent_dim": 100,
        "warmup_iterations": 100,
        "optimizer": "nesterov",
        "student_lr": 3e-3,
        "generator_lr": 1e-2,
        "weight_decay": 0.0,
        "ce_weight": 0.0,
        "kl_weight": 1.0,
        "temperature": 1.0,
        "bn_weight": 3.0,
        "statistics": "std",
        "fold_bn": True,
        "start": "fast",
        "ranges": "learned",
        "range_lr": 1e-3,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "patience": 20,
        "inundation": None,
    },
    # The authors' code (CIFAR): 400 epochs x 200 iterations, the first 4 epochs for the generator alone.
    "paper": {
        "budget": Budget(iterations=79_200),
        "generator": None,
        "generator_eps": 0.8,
        "batch_size": 200,
        "student_steps": 1,
        "distilled_images": 0,
        "latent_dim": 100,
        "warmup_iterations": 800,
        "optimizer": "nesterov",
        "student_lr": 1e-4,
        "generator_lr": 1e-3,
        "weight_decay": 1e-4,
        "ce_weight": 1.0,
        "kl_weight": 1.0,
        "temperature": 20.0,
        "bn_weight": 0.1,
        "statistics": "variance",
        "fold_bn": False,
        "start": "nearest",
        "ranges": "average",
        "range_lr": 1e-3,
        "schedule": "steps",
        "clip_norm": None,
        "patience": None,
        "inundation": None,
    },
}
