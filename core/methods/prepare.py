"""Where training of a low-bit student starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinError
from core.methods import layerwise
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.methods.clock import Clock
from core.spec import Start
from core.synthesis.distill import BATCH, BRIEF, distill

SYNTHESIS_SHARE = 0.3  # of a budget in seconds, at most, goes into distillation and a generator's warm-up
_IMAGES, _ITERATIONS = 64, 25


@dataclass(frozen=True, slots=True)
class Prepared:
    """`images` [N, C, H, W] that the student was prepared on, on the CPU; None where they are noise.

    `steps` were reported within the phase; `notes` are for the report.
    """

    images: Tensor | None
    steps: int
    notes: Sequence[str] = ()


def prepare(
    teacher: fx.GraphModule,
    student: Student,
    clock: Clock,
    context: RunContext,
    *,
    start: Start,
    equalize: bool = True,
    images: int = 0,
    later_steps: int = 0,
) -> Prepared:
    """Makes the student what training starts from, on `images` distilled images or more.

    `fast`: that method's answer, its grids pinned. `nearest`: ranges of least rounding error and weights
    on their min-max grids. `equalize` as in `core.methods.layerwise`. The images take at most half of the
    share for synthesis; the caller will report `later_steps` more steps in the same phase. Raises Diverged.
    """
    result = distill(
        teacher,
        image_shape(teacher),
        images=max(images, _IMAGES),
        iterations=_ITERATIONS,
        context=context,
        recipe=BRIEF,
        enough=lambda: clock.share() > SYNTHESIS_SHARE / 2,
        later_steps=later_steps,
    )
    some, notes = result.images[:_IMAGES], list(result.notes)
    if start == "fast":
        rounding = layerwise.default_rounding(student)
        some = some.to(context.device)
        notes += layerwise.solve(student, some, rounding=rounding, equalize=equalize, check=context.check)
    else:
        calibrate(student, some, context, MinError)
    if result.first_loss is None:
        return Prepared(None, 0, notes)
    return Prepared(result.images, _ITERATIONS * -(-len(result.images) // BATCH), notes)
