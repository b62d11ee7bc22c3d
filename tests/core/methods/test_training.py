"""What every method that trains keeps to: grids, ranges, budget, progress, cancel, seed and teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import fx

from core.context import Progress
from core.errors import Canceled, Diverged
from core.methods import layerwise, registry
from core.methods.base import image_shape
from core.methods.early_stop import IMAGES
from core.spec import PROFILES, Budget
from core.synthesis.distill import BRIEF, distill
from tests.core.methods.trained import (
    GDFQ,
    GDFQ_PAPER,
    ZAQ,
    ZAQ_PAPER,
    TrainedConfig,
    context,
    state,
    student_of,
)

METHODS = pytest.mark.parametrize("config", [GDFQ, ZAQ], ids=["gdfq", "zaq"])
PRESETS = pytest.mark.parametrize(
    "config", [GDFQ, GDFQ_PAPER, ZAQ, ZAQ_PAPER], ids=["gdfq", "gdfq-paper", "zaq", "zaq-paper"]
)
pytestmark = pytest.mark.usefixtures("short_calibration")


@PRESETS
@pytest.mark.parametrize(("profile", "bits"), [("portable", "w3a3"), ("tensorrt", "w3a8")])
def test_training_stays_on_the_grids_of_the_profile(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig, profile: str, bits: str
) -> None:
    grids = PROFILES[profile].grids
    student = student_of(teacher, config, bits, grids)
    before = [layer.weight.detach().clone() for layer in student.layers().values()]
    registry.run(teacher, student, config, context(tmp_path))
    student = student.folded()
    for layer, weight in zip(student.layers().values(), before, strict=True):
        assert not torch.equal(layer.weight, weight)
        assert not layer.grid().zero_point.any()
    if grids.signed_activations:
        assert not any(bool(q.zero_point) for q in student.activation_quantizers().values())


@PRESETS
def test_ranges_are_frozen_afterwards(teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig) -> None:
    student = student_of(teacher, config)
    summary = registry.run(teacher, student, config, context(tmp_path))
    assert not student.training
    assert all(q.calibrated and q.observer is None for q in student.activation_quantizers().values())
    assert not any(q.scale.requires_grad for q in student.activation_quantizers().values())
    before = state(student)
    student(summary.images * 1000)
    after = state(student)
    assert all(torch.equal(after[name], before[name]) for name in before)


@METHODS
def test_learned_ranges_move_and_calibrated_ones_do_not(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    def scales(ranges: Literal["learned", "calibrated"], iterations: int) -> torch.Tensor:
        student = student_of(teacher, config)
        run = replace(config, ranges=ranges, budget=Budget(iterations=iterations))
        registry.run(teacher, student, run, context(tmp_path))
        return torch.stack([q.scale.detach() for q in student.activation_quantizers().values()])

    assert torch.equal(scales("calibrated", 1), scales("calibrated", 3))
    assert not torch.equal(scales("learned", 1), scales("learned", 3))


@METHODS
def test_the_smallest_budget_in_seconds_still_trains_once(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    config = replace(config, budget=Budget(seconds=1e-6))
    summary = registry.run(teacher, student_of(teacher, config), config, context(tmp_path))
    assert summary.iterations == 1 and summary.stopped_by == "seconds"


@PRESETS
def test_progress_within_a_phase_never_falls(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    news: list[Progress] = []
    run = context(tmp_path, emit=news.append, interval=0.0)
    registry.run(teacher, student_of(teacher, config), config, run)
    fractions = [item.fraction for item in news]
    assert fractions == sorted(fractions)
    assert {item.phase for item in news} == {"synthesizing", "training"}
    assert news[-1].step == news[-1].steps == 3


@METHODS
def test_cancel_stops_within_a_step(teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig) -> None:
    """Asked at every step: the run ends at the very question that is answered with yes."""
    asked = 0
    stop_at = 0

    def canceled() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    run = context(tmp_path, canceled=canceled)
    registry.run(teacher, student_of(teacher, config), config, run)
    held_back = IMAGES // config.resolved().batch_size  # batches of the last measurement
    stop_at, asked = asked - held_back - 8, 0  # within the second of three iterations
    with pytest.raises(Canceled):
        registry.run(teacher, student_of(teacher, config), config, run)
    assert asked == stop_at


@PRESETS
def test_same_seed_same_student(teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig) -> None:
    results = []
    for seed in (7, 7, 8):
        student = student_of(teacher, config)
        registry.run(teacher, student, config, context(tmp_path, seed=seed))
        results.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "config",
    [GDFQ, replace(ZAQ, discrepancy="scrm"), replace(ZAQ, discrepancy="crm")],
    ids=["gdfq", "zaq-scrm", "zaq-crm"],
)
def test_the_teacher_stays_as_it_was(teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    registry.run(teacher, student_of(teacher, config), config, context(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert not any(module._forward_pre_hooks for module in teacher.modules())


@pytest.mark.parametrize(
    "config",
    [replace(GDFQ, optimizer="nesterov", student_lr=1e30), replace(ZAQ, student_lr=1e30, clip_norm=1e30)],
    ids=["gdfq", "zaq"],
)
def test_hopeless_learning_rates_end_as_diverged(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    config = replace(config, budget=Budget(iterations=20), start="nearest")
    with pytest.raises(Diverged) as caught:
        registry.run(teacher, student_of(teacher, config), config, context(tmp_path))
    assert caught.value.code == "diverged"


@METHODS
def test_training_starts_from_the_answer_of_fast(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    """Steps too short to move an integer leave that answer."""
    run = context(tmp_path)
    config = replace(config, student_lr=1e-12, range_lr=1e-12, budget=Budget(iterations=1))
    student = student_of(teacher, config)
    summary = registry.run(teacher, student, config, run)
    assert summary.settings["start"] == "fast"
    solved = student_of(teacher, config)
    images = distill(teacher, image_shape(teacher), images=16, iterations=5, context=run, recipe=BRIEF).images
    layerwise.solve(solved, images)
    for (name, layer), wanted in zip(student.layers().items(), solved.layers().values(), strict=True):
        assert torch.equal(layer.grid().codes(layer.weight), wanted.grid().codes(wanted.weight)), name
        torch.testing.assert_close(layer.bias, wanted.bias)
    nearest = student_of(teacher, config)
    registry.run(teacher, nearest, replace(config, start="nearest"), context(tmp_path))
    codes = [[layer.grid().codes(layer.weight) for layer in s.layers().values()] for s in (student, nearest)]
    assert any(not torch.equal(a, b) for a, b in zip(*codes, strict=True))
