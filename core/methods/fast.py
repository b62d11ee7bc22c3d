"""A quantized network in seconds: everything found in one pass over a few synthetic images.

Images are distilled briefly from the spectrum of natural ones (`core.synthesis.spectrum`), then teacher
and student run over them side by side, and each range, weight and bias is found where it stands
(`core.methods.layerwise`). Nothing is trained. docs/methods/fast.md has the measurements.
"""

from __future__ import annotations

import time
from itertools import count

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.methods import layerwise
from core.methods.base import Summary, image_shape
from core.spec import FastConfig
from core.synthesis.distill import BATCH, BRIEF, distill

_ON_NOISE = (
    "Images were not distilled (no batch-normalization statistics, or no iterations): noise with the "
    "spectrum of natural images was used."
)


def run(teacher: fx.GraphModule, student: Student, config: FastConfig, context: RunContext) -> Summary:
    """Distills images, solves the student on them. Raises Diverged."""
    began = time.monotonic()
    context.seed_everything()
    shape = image_shape(teacher)
    images, iterations = config.synthesis(shape[1] * shape[2])
    rounding = config.rounding or layerwise.default_rounding(student)
    operators = len(student.graph.graph.nodes)
    distilling = iterations * -(-images // BATCH)
    steps = count(distilling + 1)
    with context.phase("synthesizing"):
        result = distill(
            teacher,
            shape,
            images=images,
            iterations=iterations,
            context=context,
            recipe=BRIEF,
            later_steps=operators,
        )
        notes = result.notes + layerwise.solve(
            student,
            result.images.to(context.device),
            rounding=rounding,
            check=context.check,
            progress=lambda: context.step(next(steps), distilling + operators, {}),
        )
    return Summary(
        iterations=iterations,
        seconds=time.monotonic() - began,
        stopped_by="calibrated",
        images=result.images,
        settings={"images": images, "iterations": iterations, "rounding": rounding},
        measures=result.measures,
        notes=notes if result.measures else [_ON_NOISE, *notes],
    )
