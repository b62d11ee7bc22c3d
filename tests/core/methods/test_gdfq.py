"""The generator makes what the teacher recognizes, the student comes closer to it, within its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from core.context import Progress
from core.fake_quant.affine import unsigned_grid
from core.methods import gdfq
from core.methods.answered import Answered
from core.methods.attempt import Attempt
from core.methods.base import image_shape
from core.methods.gdfq import Lesson
from core.methods.inundation import crossing_factor
from core.methods.prepare import prepare
from core.methods.softened import softened_kl
from core.spec import Budget, GdfqConfig
from core.synthesis.distill import BRIEF, distill, frozen
from core.synthesis.statistics import BatchNormStatistics
from tests.core.methods.trained import GDFQ as SMALL
from tests.core.methods.trained import GDFQ_PAPER as PAPER
from tests.core.methods.trained import context, state, student_of

PRESETS = pytest.mark.parametrize("config", [SMALL, PAPER], ids=["service", "paper"])
pytestmark = pytest.mark.usefixtures("short_calibration")


@pytest.mark.parametrize(("generator", "learned"), [("product", 30), ("conditional", 90)])
def test_images_come_to_be_recognized_and_their_statistics_too(
    classifier: fx.GraphModule, tmp_path: Path, generator: Any, learned: float
) -> None:
    """A product with noise of either sign hides the class; normalization shows it."""
    run = context(tmp_path)
    run.seed_everything()
    settings = replace(SMALL, generator=generator, batch_size=32, generator_lr=3e-3).resolved()
    with frozen(classifier), BatchNormStatistics(classifier) as statistics:
        lesson = Lesson(classifier, student_of(classifier), statistics, settings, run)
        before = lesson.shown_images()[2]
        for _ in range(60):
            lesson.warm_up_step()
        _, _, after = lesson.shown_images()
    assert before["recognized"] < 25 < learned < after["recognized"]
    assert after["bn_statistics"] < before["bn_statistics"]


@PRESETS
def test_kl_falls_on_images_the_student_never_saw(
    classifier: fx.GraphModule, tmp_path: Path, config: GdfqConfig
) -> None:
    """The same generator, taught by the same seed, with a student that learns and one that hardly does."""
    config = replace(
        config,
        batch_size=16,
        budget=Budget(iterations=25),
        warmup_iterations=15,
        optimizer="adam",
        start="nearest",
    )
    distances = []
    for rate in (1e-9, 1e-3):
        student = student_of(classifier, config)
        run = replace(config, student_lr=rate, range_lr=rate)
        summary = gdfq.run(classifier, student, run, context(tmp_path))
        with torch.no_grad():
            x = summary.images
            distances.append(softened_kl(student(x), classifier(x), 20.0))
    assert distances[1] < 0.7 * distances[0]


def test_the_kl_is_averaged_over_batch_and_classes_and_scaled_by_the_squared_temperature() -> None:
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    p, q = (teacher / 20).softmax(1), (student / 20).softmax(1)
    expected = 400 * (p * (p / q).log()).sum(1).mean() / 7
    torch.testing.assert_close(softened_kl(student, teacher, 20.0), expected, rtol=1e-3, atol=1e-6)
    assert softened_kl(teacher, teacher, 20.0).item() == 0


@PRESETS
def test_the_teacher_runs_once_for_both_losses(
    teacher: fx.GraphModule, tmp_path: Path, config: GdfqConfig
) -> None:
    settings = replace(config, student_steps=1, start="nearest").resolved()
    with frozen(teacher), BatchNormStatistics(teacher) as statistics:
        student = student_of(teacher, config)
        run = context(tmp_path)
        prepare(teacher, Attempt(student, settings, run))
        lesson = Lesson(teacher, student, statistics, settings, run)
        calls = []
        teacher.register_forward_hook(lambda *_: calls.append(1))
        losses = lesson.iteration()
    assert len(calls) == 1
    wanted = {"generator_ce", "bn_statistics", "kl", "student"}
    assert losses.keys() == wanted | ({"student_ce"} if settings.ce_weight else set())


def test_the_paper_preset_averages_ranges_in_the_warm_up_and_trains_gains_but_no_statistics(
    teacher: fx.GraphModule, tmp_path: Path
) -> None:
    student = student_of(teacher, PAPER)
    before = state(student)
    ranges: list[Tensor] = []

    def watch(news: Progress) -> None:
        if news.phase == "training":
            found = student.activation_quantizers().values()
            ranges.append(torch.stack([q.scale.detach() for q in found]))

    gdfq.run(teacher, student, replace(PAPER, student_lr=0.1), context(tmp_path, emit=watch, interval=0.0))
    assert len(ranges) > 3 and all(torch.equal(ranges[0], later) for later in ranges)
    assert not torch.equal(ranges[0], torch.ones_like(ranges[0]))
    after = state(student)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    means = {name for name in before if name.endswith("running_mean")}
    assert means and not any("running" in name or "batches" in name for name in changed)
    assert {name.replace("running_mean", "weight") for name in means} < changed


def test_every_other_further_step_sees_distilled_images(
    teacher: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    step = Lesson.student_step

    def watched(lesson: Lesson, x_NCHW: Tensor, wanted_NC: Tensor, y_N: Tensor) -> dict[str, float]:
        seen.append(x_NCHW)
        with torch.no_grad():
            torch.testing.assert_close(teacher(x_NCHW), wanted_NC, rtol=0.02, atol=0.02)  # bfloat16
        return step(lesson, x_NCHW, wanted_NC, y_N)

    monkeypatch.setattr(Lesson, "student_step", watched)
    run = context(tmp_path)
    images = distill(teacher, image_shape(teacher), images=16, iterations=5, context=run, recipe=BRIEF).images
    gdfq.run(teacher, student_of(teacher), replace(SMALL, student_steps=4), run)
    distilled = [any(torch.equal(x[0], image) for image in images) for x in seen]
    assert distilled == [False, True, False, True] * 3


def test_answered_batches_show_every_image_as_often(teacher: fx.GraphModule, tmp_path: Path) -> None:
    images = torch.randn(10, *image_shape(teacher))
    answered = Answered.by(teacher, images, 4, context(tmp_path))
    seen = [answered.batch() for _ in range(6)]
    assert [len(x) for x, _ in seen] == [4, 4, 2] * 2
    for epoch in (seen[:3], seen[3:]):
        shown = torch.cat([x for x, _ in epoch])
        assert sorted(shown[:, 0, 0, 0].tolist()) == sorted(images[:, 0, 0, 0].tolist())
        with torch.no_grad():
            torch.testing.assert_close(teacher(shown), torch.cat([wanted for _, wanted in epoch]))


def test_inundation_multiplies_a_move_until_the_wanted_share_of_integers_changes() -> None:
    torch.manual_seed(0)
    weight, move = torch.randn(8, 4, 3, 3), 1e-4 * torch.randn(8, 4, 3, 3)
    low, high = torch.aminmax(weight.flatten(1), dim=1)
    grid = unsigned_grid(2 * low, 2 * high, 4)  # no code at the end of the grid

    def changed(factor: float) -> int:
        return int((grid.codes(weight + factor * move) != grid.codes(weight)).sum())

    assert changed(1.0) < 5
    for share in (0.05, 0.2):
        assert changed(crossing_factor(weight, move, grid, share)) == round(share * weight.numel())
    assert crossing_factor(weight, 1e5 * move, grid, 0.05) == 1.0, "no step is made shorter"
    assert crossing_factor(weight, 0 * move, grid, 0.05) == 1.0


@pytest.mark.parametrize("share", [None, 0.02])
def test_with_inundation_every_layer_changes_integers(
    teacher: fx.GraphModule, tmp_path: Path, share: float | None
) -> None:
    settings = replace(SMALL, student_steps=1, student_lr=1e-2, inundation=share, start="nearest").resolved()
    student, run = student_of(teacher), context(tmp_path)
    prepare(teacher, Attempt(student, settings, run))
    before = {name: layer.grid().codes(layer.weight) for name, layer in student.layers().items()}
    with frozen(teacher), BatchNormStatistics(teacher, settings.statistics) as statistics:
        lesson = Lesson(teacher, student, statistics, settings, run)
        lesson.set_rates(done=0.0, factor=1.0)
        lesson.iteration()
    after = {name: layer.grid().codes(layer.weight) for name, layer in student.layers().items()}
    changes = [int((before[name] != after[name]).sum()) for name in before]
    assert all(changes) if share else not any(changes)


def test_shown_images_cover_classes_evenly(teacher: fx.GraphModule, tmp_path: Path) -> None:
    summary = gdfq.run(teacher, student_of(teacher), SMALL, context(tmp_path))
    assert summary.labels is not None and summary.labels.bincount().tolist() == [8] * 7
    assert len(summary.images) == 7 * 8


def test_iterations_are_counted_out(teacher: fx.GraphModule, tmp_path: Path) -> None:
    summary = gdfq.run(teacher, student_of(teacher), SMALL, context(tmp_path))
    assert summary.iterations == 3 and summary.stopped_by == "iterations"
    assert [entry["iteration"] for entry in summary.losses] == [1, 2, 3]
    assert summary.settings["kl_weight"] == 1.0


@PRESETS
def test_without_bn_its_classes_alone_guide_the_generator(
    teacher_without_bn: fx.GraphModule, tmp_path: Path, config: GdfqConfig
) -> None:
    student = student_of(teacher_without_bn, config)
    summary = gdfq.run(teacher_without_bn, student, config, context(tmp_path))
    assert any("No batch-normalization statistics" in note for note in summary.notes)
    assert "recognized" in summary.measures and "bn_statistics" not in summary.measures
    assert all(q.calibrated for q in student.activation_quantizers().values())
