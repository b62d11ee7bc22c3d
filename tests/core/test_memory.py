"""A step that runs out of memory is repeated with half the batch."""

from __future__ import annotations

import pytest
import torch

from core.memory import within_memory

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Trainee:
    def __init__(self, batch: int, fits: int, error: Exception) -> None:
        self.batch, self.fits, self.error = batch, fits, error

    def halve_batch(self) -> int | None:
        if self.batch < 4:
            return None
        self.batch //= 2
        return self.batch

    def step(self) -> int:
        if self.batch > self.fits:
            raise self.error
        return self.batch


@pytest.mark.parametrize("error", [CPU, GPU, MemoryError()])
def test_the_batch_is_halved_until_it_fits(error: Exception) -> None:
    trainee, notes = Trainee(64, 20, error), list[str]()
    assert within_memory(trainee, notes, trainee.step) == 16
    assert len(notes) == 2 and "16 images" in notes[-1]


def test_a_batch_that_cannot_be_halved_ends_the_run() -> None:
    trainee = Trainee(8, 1, GPU)
    with pytest.raises(torch.OutOfMemoryError):
        within_memory(trainee, [], trainee.step)


def test_other_errors_pass() -> None:
    trainee, notes = Trainee(64, 20, RuntimeError("shapes do not match")), list[str]()
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(trainee, notes, trainee.step)
    assert not notes and trainee.batch == 64
