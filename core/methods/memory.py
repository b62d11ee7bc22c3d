"""Where memory runs out, half the batch is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")

_CPU = "can't allocate memory"  # what torch's allocator for the CPU says, in a plain RuntimeError


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU in str(error)


class Batched(Protocol):
    def halve_batch(self) -> int | None:
        """The new number of images a step, None where it cannot be less."""


class Halving:
    """A trainee whose settings, a dataclass, have the `batch_size`."""

    settings: Any

    def halve_batch(self) -> int | None:
        half: int = self.settings.batch_size // 2
        if half < 2:
            return None
        self.settings = replace(self.settings, batch_size=half)
        return half


def within_memory(trainee: Batched, notes: list[str], step: Callable[[], Result]) -> Result:
    """step(), repeated with half the batch as often as memory runs out; `notes` says so.

    A step that broke off may have moved one network and not the other; nothing is left half-written.
    Raises torch's error when the batch cannot be halved any more.
    """
    while True:
        try:
            return step()
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            batch = trainee.halve_batch()
            if batch is None:
                raise
        # Outside the handler, which keeps the tensors of the frames below alive.
        notes.append(f"Memory ran out: from here on a step has {batch} images.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
