"""Round to nearest: the baseline.

Weights by their minimum and maximum per output channel, activation ranges by the minimum and maximum
over synthetic images, nothing trained: ZeroQ (arXiv 2001.00281) without its sensitivity search, on
the grids of Krishnamoorthi (arXiv 1806.08342, section 2).
"""

from __future__ import annotations

import time
from dataclasses import asdict

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.methods.base import Summary, image_shape
from core.methods.calibrate import calibrate
from core.spec import MinMaxConfig
from core.synthesis.distill import distill

_ON_NOISE = (
    "Images were not distilled (no batch-normalization statistics, or no iterations): they are Gaussian."
)


def run(teacher: fx.GraphModule, student: Student, config: MinMaxConfig, context: RunContext) -> Summary:
    """Distills images, shows them to the student once, freezes its ranges."""
    began = time.monotonic()
    context.seed_everything()
    with context.phase("synthesizing"):
        result = distill(
            teacher,
            image_shape(teacher),
            images=config.images,
            iterations=config.iterations,
            context=context,
        )
        calibrate(student, result.images, context)
    return Summary(
        iterations=config.iterations,
        seconds=time.monotonic() - began,
        stopped_by="calibrated",
        images=result.images,
        settings=asdict(config),
        measures=result.measures,
        notes=result.notes if result.measures else [_ON_NOISE],
    )
