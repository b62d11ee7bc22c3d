"""The two players pull the disagreement apart and together, within budget, bounds and reach of a cancel."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from core.fake_quant.observers import MinError
from core.methods import zaq
from core.methods.base import image_shape
from core.methods.calibrate import calibrate
from core.methods.zaq import Game
from core.spec import Budget
from core.synthesis.distill import distill
from core.synthesis.statistics import BatchNormStatistics
from tests.core.methods.trained import ZAQ as SMALL
from tests.core.methods.trained import ZAQ_PAPER as PAPER
from tests.core.methods.trained import context, student_of

PAPER_ITERATIONS = 3
pytestmark = pytest.mark.usefixtures("short_calibration")


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


def test_without_bn_the_summary_says_what_guided_the_generator(
    teacher_without_bn: fx.GraphModule, tmp_path: Path
) -> None:
    summary = zaq.run(teacher_without_bn, student_of(teacher_without_bn), SMALL, context(tmp_path))
    assert any("No batch-normalization statistics" in note for note in summary.notes)
    assert "bn_statistics" not in summary.measures
