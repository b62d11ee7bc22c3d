"""Where training of a low-bit student starts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from core.fake_quant.observers import MinError
from core.methods import layerwise
from core.methods.attempt import Attempt
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.synthesis.distill import BATCH, BRIEF, distill

SYNTHESIS_SHARE = 0.3  # of a budget in seconds, at most, goes into distillation and a generator's warm-up
_IMAGES, _ITERATIONS = 64, 25


@dataclass(frozen=True, slots=True)
class Prepared:
    """`images` [N, C, H, W] that the student was prepared on, on the CPU; None where they are noise.

    `steps` were reported within the phase.
    """

    images: Tensor | None
    steps: int


def prepare(teacher: fx.GraphModule, attempt: Attempt, *, equalize: bool = True, images: int = 0) -> Prepared:
    """Makes the attempt's student what training starts from, on `images` distilled images or more.

    Its settings' `start` is `fast`: that method's answer, its grids pinned; or `nearest`: ranges of least
    rounding error and weights on their min-max grids. `equalize` as in `core.methods.layerwise`. The images
    take at most half of the share for synthesis; the caller will report a generator's warm-up in the same
    phase. Raises Diverged.
    """
    student, context, settings = attempt.student, attempt.context, attempt.settings
    result = distill(
        teacher,
        image_shape(teacher),
        images=max(images, _IMAGES),
        iterations=_ITERATIONS,
        context=context,
        recipe=BRIEF,
        enough=lambda: attempt.clock.share() > SYNTHESIS_SHARE / 2,
        later_steps=settings.warmup_iterations,
    )
    attempt.notes.extend(result.notes)
    some = result.images[:_IMAGES]
    if settings.start == "fast":
        rounding = layerwise.default_rounding(student)
        some = some.to(context.device)
        notes = layerwise.solve(student, some, rounding=rounding, equalize=equalize, check=context.check)
        attempt.notes.extend(notes)
    else:
        calibrate(student, some, context, MinError)
    if result.first_loss is None:
        return Prepared(None, 0)
    return Prepared(result.images, _ITERATIONS * -(-len(result.images) // BATCH))
