"""Where training of a low-bit student starts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinError
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.methods.clock import Clock
from core.synthesis.distill import BATCH, distill

SYNTHESIS_SHARE = 0.3  # of a budget in seconds, at most, goes into distillation and a generator's warm-up
_IMAGES, _ITERATIONS = 64, 100


@dataclass(frozen=True, slots=True)
class Prepared:
    """`images` [N, C, H, W] that the ranges were found on, on the CPU; None where they are Gaussian noise.

    `steps` were reported within the phase.
    """

    images: Tensor | None
    steps: int


def prepare(
    teacher: fx.GraphModule,
    student: Student,
    clock: Clock,
    context: RunContext,
    *,
    images: int = 0,
    later_steps: int = 0,
) -> Prepared:
    """Sets the student's ranges to those of least rounding error on distilled images, `images` or more.

    Takes at most half of the share for synthesis; the caller will report `later_steps` more steps in the
    same phase.
    """
    result = distill(
        teacher,
        image_shape(teacher),
        images=max(images, _IMAGES),
        iterations=_ITERATIONS,
        context=context,
        enough=lambda: clock.share() > SYNTHESIS_SHARE / 2,
        later_steps=later_steps,
    )
    calibrate(student, result.images, context, MinError)
    if result.first_loss is None:
        return Prepared(None, steps=0)
    return Prepared(result.images, _ITERATIONS * len(result.images.split(BATCH)))
