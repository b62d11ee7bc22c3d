"""A quantized network in seconds: everything found in one pass over a few synthetic images.

Images are distilled briefly from the spectrum of natural ones (`core.synthesis.spectrum`), then teacher
and student run over them side by side, and each range, weight and bias is found where it stands
(`core.methods.layerwise`). Nothing is trained. docs/methods/fast.md has the measurements.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.methods import layerwise
from core.methods.base import Summary, image_shape
from core.spec import FastConfig
from core.synthesis.distill import BRIEF, distill


def run(teacher: fx.GraphModule, student: Student, config: FastConfig, context: RunContext) -> Summary:
    """Distills images, solves the student on them. Raises Diverged."""
    began = time.monotonic()
    context.seed_everything()
    shape = image_shape(teacher)
    images, iterations = config.synthesis(shape[1] * shape[2])
    with context.phase("synthesizing"):
        result = distill(teacher, shape, images=images, iterations=iterations, context=context, recipe=BRIEF)
    with context.phase("training"):
        layerwise.solve(
            student, result.images.to(context.device), rounding=config.rounding, check=context.check
        )
    summary = Summary(
        iterations=iterations,
        seconds=time.monotonic() - began,
        stopped_by="calibrated",
        images=result.images,
        settings=asdict(config) | {"images": images, "iterations": iterations},
    )
    if result.last_loss is None or result.first_loss is None:
        summary.notes.append(
            "No batch-normalization statistics to distill images from: noise with the spectrum of natural "
            "images was used."
        )
    else:
        summary.measures = {"bn_statistics_noise": result.first_loss, "bn_statistics": result.last_loss}
    return summary
