"""Where memory runs out, half the batch is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from core.errors import is_out_of_memory

Result = TypeVar("Result")


class Batched(Protocol):
    def halve_batch(self) -> int | None:
        """The new number of images a step, None where it cannot be less."""


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
