"""Images come to match the statistics, ranges come from them, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import fx
from torch.nn import functional as F

from core.context import RunContext
from core.fake_quant.insert import Student, build_student
from core.methods import minmax, zeroq
from core.spec import BitSpec, MinMaxConfig, ZeroqConfig

SERVICE = ZeroqConfig(images=16, iterations=40)
PAPER = replace(SERVICE, preset="paper")


def context(tmp_path: Path, seed: int = 0) -> RunContext:
    return RunContext(tmp_path, seed=seed, device=torch.device("cpu"))


def student_of(teacher: fx.GraphModule, bits: str = "w3a3") -> Student:
    return build_student(teacher, BitSpec.parse(bits))


@pytest.mark.parametrize("config", [SERVICE, PAPER], ids=["service", "paper"])
def test_statistics_come_closer_and_ranges_are_frozen(
    teacher: fx.GraphModule, tmp_path: Path, config: ZeroqConfig
) -> None:
    student = student_of(teacher, "w8a8")
    weights = [layer.low_bit_weight().clone() for layer in student.layers().values()]
    summary = zeroq.run(teacher, student, config, context(tmp_path))
    assert summary.measures["bn_statistics"] < summary.measures["bn_statistics_noise"] / 3
    assert all(q.calibrated and q.observer is None for q in student.activation_quantizers().values())
    layers = student.layers().values()
    assert all(
        torch.equal(layer.low_bit_weight(), weight) for layer, weight in zip(layers, weights, strict=True)
    )
    with torch.no_grad():
        wanted = teacher(summary.images)
        error = (student(summary.images) - wanted).abs().mean() / wanted.abs().mean()
    assert error < 0.05


def test_the_more_ranges_look_at_the_better_they_serve(teacher: fx.GraphModule, tmp_path: Path) -> None:
    distances = {}
    choices: tuple[Literal["outputs", "error", "minmax"], ...] = ("outputs", "error", "minmax")
    for ranges in choices:
        student = student_of(teacher)
        summary = zeroq.run(teacher, student, replace(SERVICE, ranges=ranges), context(tmp_path))
        with torch.no_grad():
            distances[ranges] = F.l1_loss(student(summary.images), teacher(summary.images))
    assert distances["outputs"] < distances["error"] < distances["minmax"]


def test_on_min_max_ranges_it_is_the_baseline(teacher: fx.GraphModule, tmp_path: Path) -> None:
    ours, baseline = student_of(teacher), student_of(teacher)
    zeroq.run(teacher, ours, replace(SERVICE, distillation="batch", ranges="minmax"), context(tmp_path))
    minmax.run(teacher, baseline, MinMaxConfig(images=16, iterations=40), context(tmp_path))
    found = ours.state_dict()
    assert all(torch.equal(found[name], value) for name, value in baseline.state_dict().items())


def test_the_papers_schedule() -> None:
    settings = ZeroqConfig(preset="paper").resolved()
    assert (settings.images, settings.batch_size, settings.iterations) == (64, 64, 500)
    assert (settings.distillation, settings.ranges) == ("original", "minmax")


def test_same_seed_same_ranges(teacher: fx.GraphModule, tmp_path: Path) -> None:
    results = []
    for seed in (7, 7, 8):
        student = student_of(teacher)
        zeroq.run(teacher, student, replace(SERVICE, iterations=5), context(tmp_path, seed))
        results.append(torch.stack([q.scale.detach() for q in student.activation_quantizers().values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("preset", ["service", "paper"])
def test_without_bn_it_says_that_images_were_noise(
    teacher_without_bn: fx.GraphModule, tmp_path: Path, preset: str
) -> None:
    config = ZeroqConfig(preset=preset, images=32, iterations=5)  # type: ignore[arg-type]
    summary = zeroq.run(teacher_without_bn, student_of(teacher_without_bn), config, context(tmp_path))
    assert "noise" in summary.notes[0] and summary.measures == {}
    assert abs(summary.images.std().item() - 1) < 0.15
