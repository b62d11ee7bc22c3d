"""Where training of a low-bit student starts."""

from __future__ import annotations

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinError
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.methods.clock import Clock
from core.synthesis.distill import distill

SYNTHESIS_SHARE = 0.3  # of a budget in seconds, at most, goes into distillation and a generator's warm-up
_IMAGES, _ITERATIONS = 64, 100


def prepare(
    teacher: fx.GraphModule, student: Student, clock: Clock, context: RunContext, later_steps: int
) -> int:
    """Sets the student's ranges to those of least rounding error on distilled images.

    Takes at most half of the share for synthesis. Returns the steps it reported within the phase, after
    which the caller will report `later_steps` more.
    """
    result = distill(
        teacher,
        image_shape(teacher),
        images=_IMAGES,
        iterations=_ITERATIONS,
        context=context,
        enough=lambda: clock.share() > SYNTHESIS_SHARE / 2,
        later_steps=later_steps,
    )
    calibrate(student, result.images, context, MinError)
    return 0 if result.first_loss is None else _ITERATIONS
