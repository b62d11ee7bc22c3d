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
from core.spec import BitSpec, Budget, GdfqConfig, ZaqConfig
from core.synthesis.statistics import BatchNormStatistics

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


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


def test_a_forward_pass_that_broke_off_is_let_go(teacher: fx.GraphModule, tmp_path: Path) -> None:
    """Its statistics hold on to all that their loss would need, which is most of the memory."""
    settings = ZaqConfig(batch_size=8).resolved()
    context = RunContext(tmp_path, device=torch.device("cpu"))
    student = build_student(teacher, BitSpec.parse("w4a4"))
    with BatchNormStatistics(teacher) as statistics:
        game = zaq.Game(teacher, student, statistics, settings, context)
        teacher(torch.randn(4, 3, 12, 12))
        assert game.halve_batch() == 4
        with pytest.raises(RuntimeError, match="No forward pass"):
            statistics.loss()
