"""The baseline covers what the synthetic images show, and then stands still."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx

from core.context import RunContext
from core.fake_quant.insert import build_student
from core.methods import minmax
from core.spec import BitSpec, MinMaxConfig


def test_ranges_cover_the_images_and_are_frozen(teacher: fx.GraphModule, tmp_path: Path) -> None:
    student = build_student(teacher, BitSpec.parse("w8a8"))
    weights = [p.detach().clone() for p in student.parameters() if p.dim() > 0]
    run = RunContext(tmp_path, device=torch.device("cpu"))
    summary = minmax.run(teacher, student, MinMaxConfig(images=16, iterations=20), run)
    quantizers = student.activation_quantizers()
    first = next(iter(quantizers.values())).grid()
    covered = first.values(torch.tensor([first.low, first.high]))
    low, high = summary.images.aminmax()
    assert (covered - torch.stack([low, high])).abs().max() <= first.scale
    assert all(q.calibrated and q.observer is None for q in quantizers.values())
    trained = [p.detach() for p in student.parameters() if p.dim() > 0]
    assert all(torch.equal(a, b) for a, b in zip(trained, weights, strict=True)), "nothing is trained"
    assert summary.measures["bn_statistics"] < summary.measures["bn_statistics_noise"]
    with torch.no_grad():
        wanted = teacher(summary.images)
        error = (student(summary.images) - wanted).abs().mean() / wanted.abs().mean()
    assert error < 0.05


def test_without_bn_it_says_that_images_were_gaussian(
    teacher_without_bn: fx.GraphModule, tmp_path: Path
) -> None:
    student = build_student(teacher_without_bn, BitSpec.parse("w8a8"))
    run = RunContext(tmp_path, device=torch.device("cpu"))
    summary = minmax.run(teacher_without_bn, student, MinMaxConfig(images=8), run)
    assert "Gaussian" in summary.notes[0]
