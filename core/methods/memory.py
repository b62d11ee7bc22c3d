"""Where memory runs out, half the batch is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from core.context import RunContext
from core.errors import is_out_of_memory

Result = TypeVar("Result")


class Batched(Protocol):
    def halve_batch(self) -> int | None:
        """The new number of images a step, None where it cannot be less."""


class Halving:
    """A trainee whose settings, a dataclass, have the `batch_size`."""

    settings: Any
    context: RunContext

    def halve_batch(self) -> int | None:
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


def within_memory(trainee: Batched, notes: list[str], step: Callable[[], Result]) -> Result:
    """step(), repeated with half the batch as often as memory runs out; `notes` says so.

    A step that broke off may have moved one network and not the other; nothing is left half-written.
    Raises the error when the batch cannot be halved any more.
    """
    while True:
        try:
            return step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            batch = trainee.halve_batch()
            if batch is None:
                raise
        # Outside the handler, which keeps the tensors of the frames below alive.
        notes.append(f"Memory ran out: from here on a step has {batch} images.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
