"""ZeroQ: Cai, Yao, Dong, Gholami, Mahoney and Keutzer, CVPR 2020 (arXiv 2001.00281), without its bit search.

Images x are distilled from noise until the network's batch normalization recognizes them, and the
activation ranges of the student are found on them; weights are rounded to nearest on the min-max grid
of their output channel; nothing is trained:

    min over x of  sum over BN layers of  |mean(x) - mean_BN|^2 + |std(x) - std_BN|^2,  the input with 0 and 1

`preset: paper` is the authors' code: the moments of each image on its own, 500 steps of Adam at .5
with a plateau rule, the images' minimum and maximum as ranges. Deviations: the inputs of BN layers
are measured (theirs pairs the i-th convolution with the i-th BN), 1x1 maps have variance 0 and not NaN,
grids are this service's (8 bits for image and last layer's input, symmetric 8-bit weights).

`preset: service` matches the moments of the batch instead, with images that are bounded and moved as Fourier
coefficients (`core.synthesis.spectrum`), in fewer steps, takes the ranges with which
layers err least, and corrects biases for the rounding of their weights. docs/methods/zeroq.md has the
measurements.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinError, MinMax
from core.methods import layerwise
from core.methods.base import Summary, image_shape
from core.methods.calibrate import calibrate
from core.spec import ZeroqConfig
from core.synthesis.distill import BRIEF, DEFAULT, ORIGINAL, distill

_RECIPES = {"spectrum": BRIEF, "batch": DEFAULT, "original": ORIGINAL}
_OBSERVERS = {"error": MinError, "minmax": MinMax}

_ON_NOISE = "Images were not distilled (no batch-normalization statistics, or no iterations): noise was used."


def run(teacher: fx.GraphModule, student: Student, config: ZeroqConfig, context: RunContext) -> Summary:
    """Distills images, finds the student's ranges on them, freezes them."""
    began = time.monotonic()
    settings = config.resolved()
    context.seed_everything()
    with context.phase("synthesizing"):
        result = distill(
            teacher,
            image_shape(teacher),
            images=settings.images,
            iterations=settings.iterations,
            batch_size=settings.batch_size,
            recipe=_RECIPES[settings.distillation],
            context=context,
        )
        if settings.ranges == "outputs":
            images = result.images.to(context.device)
            result.notes.extend(layerwise.solve(student, images, rounding="nearest", check=context.check))
        else:
            calibrate(student, result.images, context, _OBSERVERS[settings.ranges])
    return Summary(
        iterations=settings.iterations,
        seconds=time.monotonic() - began,
        stopped_by="calibrated",
        images=result.images,
        settings=asdict(settings),
        measures=result.measures,
        notes=result.notes if result.measures else [_ON_NOISE, *result.notes],
    )
