"""When memory runs out the batch is halved, training goes on, and the summary says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from core.context import RunContext
from core.fake_quant.insert import build_student
from core.methods import gdfq, zaq
from core.methods.memory import within_memory
from core.spec import BitSpec, Budget, GdfqConfig, ZaqConfig

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


@pytest.mark.parametrize(
    "method, config",
    [
        (zaq, ZaqConfig(budget=Budget(iterations=2), batch_size=16, warmup_iterations=2)),
        (
            gdfq,
            GdfqConfig(budget=Budget(iterations=2), batch_size=16, warmup_iterations=2, distilled_images=16),
        ),
    ],
)
def test_training_goes_on_with_smaller_batches(
    method: Any, config: Any, teacher: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that has memory for 6 images stands for an accelerator that has."""
    name = "Game" if method is zaq else "Lesson"
    cls = getattr(method, name)
    plain = cls.images
    drawn: list[int] = []

    def images(self: Any) -> Any:
        if self.settings.batch_size > 6:
            raise GPU
        drawn.append(self.settings.batch_size)
        return plain(self)

    monkeypatch.setattr(cls, "images", images)
    student = build_student(teacher, BitSpec.parse("w4a4"))
    context = RunContext(tmp_path, device=torch.device("cpu"))
    summary = method.run(teacher, student, config, context)
    assert set(drawn) == {4}
    assert [note for note in summary.notes if "4 images" in note]
    assert summary.iterations == 2
