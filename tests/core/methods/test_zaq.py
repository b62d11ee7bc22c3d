"""The two players pull the disagreement apart and together, within budget, bounds and reach of a cancel."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from core.context import Progress, RunContext
from core.errors import Canceled, Diverged
from core.fake_quant.insert import Student, build_student
from core.fake_quant.observers import MinError
from core.methods import zaq
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.methods.zaq import Game
from core.spec import PROFILES, BitSpec, Budget, ZaqConfig
from core.synthesis.distill import distill
from core.synthesis.statistics import BatchNormStatistics

SMALL = ZaqConfig(budget=Budget(iterations=3), batch_size=8, latent_dim=8, warmup_iterations=2)
PAPER_ITERATIONS = 3
PAPER = replace(SMALL, preset="paper", student_lr=0.01)


@pytest.fixture(autouse=True)
def _short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.methods.prepare._IMAGES", 16)
    monkeypatch.setattr("core.methods.prepare._ITERATIONS", 5)


def context(tmp_path: Path, **options: Any) -> RunContext:
    return RunContext(tmp_path, device=torch.device("cpu"), **options)


def student_of(teacher: fx.GraphModule, config: ZaqConfig = SMALL, bits: str = "w3a3") -> Student:
    return build_student(teacher, BitSpec.parse(bits), fold=config.resolved().fold_bn)


def state(student: Student) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


def test_the_generator_raises_and_the_student_lowers_the_disagreement(
    teacher: fx.GraphModule, tmp_path: Path
) -> None:
    student, run = student_of(teacher), context(tmp_path)
    run.seed_everything()
    settings = replace(SMALL, batch_size=32, bn_weight=0.0, beta=0.0, student_lr=3e-3).resolved()
    calibrate(
        student,
        distill(teacher, image_shape(teacher), images=32, iterations=20, context=run).images,
        run,
        MinError,
    )
    with BatchNormStatistics(teacher) as statistics:
        game = Game(teacher, student, statistics, settings, run)
        z_ND = torch.randn(64, settings.latent_dim)

        @torch.no_grad()
        def disagreement() -> float:
            images = game.generator(z_ND)
            return F.l1_loss(student(images), teacher(images)).item()

        at_first = disagreement()
        for _ in range(20):
            game.generator_step()
        attacked = disagreement()
        for _ in range(60):
            game.student_step()
        defended = disagreement()
    assert attacked > at_first * 1.02
    assert defended < attacked * 0.9


def test_training_brings_the_student_closer_on_images_it_never_saw(
    teacher: fx.GraphModule, tmp_path: Path
) -> None:
    config = replace(SMALL, batch_size=32, budget=Budget(iterations=15), warmup_iterations=30)
    before = student_of(teacher)
    run = context(tmp_path)
    images = distill(teacher, image_shape(teacher), images=16, iterations=5, context=run).images
    calibrate(before, images, run, MinError)
    after = student_of(teacher)
    summary = zaq.run(teacher, after, config, context(tmp_path))
    with torch.no_grad():
        wanted = teacher(summary.images)
        assert F.l1_loss(after(summary.images), wanted) < F.l1_loss(before(summary.images), wanted)


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["service", "paper"])
@pytest.mark.parametrize(("profile", "bits"), [("portable", "w3a3"), ("tensorrt", "w3a8")])
def test_training_stays_on_the_grids_of_the_profile(
    teacher: fx.GraphModule, tmp_path: Path, config: ZaqConfig, profile: str, bits: str
) -> None:
    grids, fold = PROFILES[profile].grids, config.resolved().fold_bn
    student = build_student(teacher, BitSpec.parse(bits), grids, fold=fold)
    before = [layer.weight.detach().clone() for layer in student.layers().values()]
    zaq.run(teacher, student, config, context(tmp_path))
    student = student.folded()
    for layer, weight in zip(student.layers().values(), before, strict=True):
        assert not torch.equal(layer.weight, weight)
        assert not layer.grid().zero_point.any()
    if grids.signed_activations:
        assert not any(bool(q.zero_point) for q in student.activation_quantizers().values())


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["service", "paper"])
def test_ranges_are_frozen_afterwards(teacher: fx.GraphModule, tmp_path: Path, config: ZaqConfig) -> None:
    student = student_of(teacher, config)
    zaq.run(teacher, student, config, context(tmp_path))
    assert not student.training
    assert all(q.calibrated for q in student.activation_quantizers().values())
    assert not any(q.scale.requires_grad for q in student.activation_quantizers().values())
    before = state(student)
    student(torch.randn(16, *image_shape(teacher)) * 1000)
    after = state(student)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_learned_ranges_move_and_calibrated_ones_do_not(teacher: fx.GraphModule, tmp_path: Path) -> None:
    scales = {}
    for ranges in ("learned", "calibrated"):
        for iterations in (1, 3):
            student = student_of(teacher)
            config = replace(SMALL, ranges=ranges, budget=Budget(iterations=iterations))
            zaq.run(teacher, student, config, context(tmp_path))
            found = student.activation_quantizers().values()
            scales[ranges, iterations] = torch.stack([q.scale.detach() for q in found])
    assert torch.equal(scales["calibrated", 1], scales["calibrated", 3])
    assert not torch.equal(scales["learned", 1], scales["learned", 3])


def test_the_paper_preset_trains_batch_normalization_and_only_widens_ranges(
    teacher: fx.GraphModule, tmp_path: Path
) -> None:
    student = student_of(teacher, PAPER)
    norms = {name: value.clone() for name, value in student.state_dict().items() if "running_mean" in name}
    assert norms
    widths: list[Tensor] = []

    def watch(*_: object) -> None:
        found = student.activation_quantizers().values()
        widths.append(torch.stack([q.scale.detach() * q.high for q in found]))

    zaq.run(teacher, student, PAPER, context(tmp_path, emit=watch, interval=0.0))
    assert any(not torch.equal(student.state_dict()[name], value) for name, value in norms.items())
    trained = widths[-PAPER_ITERATIONS:]
    assert all((after >= before - 1e-6).all() for before, after in pairwise(trained))


def test_iterations_are_counted_out(teacher: fx.GraphModule, tmp_path: Path) -> None:
    summary = zaq.run(teacher, student_of(teacher), SMALL, context(tmp_path))
    assert summary.iterations == 3 and summary.stopped_by == "iterations"
    assert [entry["iteration"] for entry in summary.losses] == [1, 2, 3]
    assert {"student", "discrepancy", "generator", "bn_statistics"} < summary.losses[0].keys()
    assert summary.settings["student_steps"] == 5
    assert summary.images.shape[1:] == image_shape(teacher)


def test_the_smallest_budget_in_seconds_still_trains_once(teacher: fx.GraphModule, tmp_path: Path) -> None:
    config = replace(SMALL, budget=Budget(seconds=1e-6))
    summary = zaq.run(teacher, student_of(teacher), config, context(tmp_path))
    assert summary.iterations == 1 and summary.stopped_by == "seconds"


def test_progress_within_a_phase_never_falls(teacher: fx.GraphModule, tmp_path: Path) -> None:
    news: list[Progress] = []
    zaq.run(teacher, student_of(teacher), SMALL, context(tmp_path, emit=news.append, interval=0.0))
    fractions = [item.fraction for item in news]
    assert fractions == sorted(fractions)
    assert {item.phase for item in news} == {"synthesizing", "training"}
    assert news[-1].step == news[-1].steps == 3


def test_cancel_stops_within_a_step(teacher: fx.GraphModule, tmp_path: Path) -> None:
    """Asked at every step: the run ends at the very question that is answered with yes."""
    asked = 0
    stop_at = 0

    def canceled() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    zaq.run(teacher, student_of(teacher), SMALL, context(tmp_path, canceled=canceled))
    questions = asked
    # 3 iterations ask before each of 5 student steps and once at the end.
    stop_at, asked = questions - 8, 0
    with pytest.raises(Canceled):
        zaq.run(teacher, student_of(teacher), SMALL, context(tmp_path, canceled=canceled))
    assert asked == stop_at


def test_same_seed_same_student(teacher: fx.GraphModule, tmp_path: Path) -> None:
    results = []
    for seed in (7, 7, 8):
        student = student_of(teacher)
        zaq.run(teacher, student, SMALL, context(tmp_path, seed=seed))
        results.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("discrepancy", ["scrm", "crm"])
def test_the_teacher_stays_as_it_was(teacher: fx.GraphModule, tmp_path: Path, discrepancy: Any) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    zaq.run(teacher, student_of(teacher), replace(SMALL, discrepancy=discrepancy), context(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_without_bn_the_summary_says_what_guided_the_generator(
    teacher_without_bn: fx.GraphModule, tmp_path: Path
) -> None:
    summary = zaq.run(teacher_without_bn, student_of(teacher_without_bn), SMALL, context(tmp_path))
    assert any("No batch-normalization statistics" in note for note in summary.notes)
    assert "bn_statistics" not in summary.measures


def test_hopeless_learning_rates_end_as_diverged(teacher: fx.GraphModule, tmp_path: Path) -> None:
    config = replace(SMALL, student_lr=1e30, clip_norm=1e30, budget=Budget(iterations=20))
    with pytest.raises(Diverged) as caught:
        zaq.run(teacher, student_of(teacher), config, context(tmp_path))
    assert caught.value.code == "diverged"
