"""What a trainee shows its networks at once, and how that is halved where memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from core.context import RunContext
from core.synthesis.statistics import BatchNormStatistics


class Halving:
    """A trainee whose settings, a dataclass, have the `batch_size`."""

    settings: Any
    context: RunContext
    statistics: BatchNormStatistics

    def halve_batch(self) -> int | None:
        self.statistics.forget()
        half: int = self.settings.batch_size // 2
        if half < 2:
            return None
        self.settings = replace(self.settings, batch_size=half)
        return half

    def batches(self, images_NCHW: Tensor) -> Iterator[Tensor]:
        """The images, as many at once as a step has now; before each batch the run may be stopped."""
        for batch in images_NCHW.split(self.settings.batch_size):
            self.context.check()
            yield batch

    def pieces(self, *drawn: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What a generator makes images of without gradients, in few pieces of equal size.

        Few, since its batch normalization looks at what is made together; twice a step's images fit.
        """
        count = -(-len(drawn[0]) // (2 * self.settings.batch_size))
        return zip(*(tensor.chunk(count) for tensor in drawn), strict=True)
