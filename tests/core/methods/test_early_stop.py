"""The best state on held-back images is kept, and training ends where they show no progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from core.context import RunContext
from core.errors import Canceled
from core.fake_quant.insert import build_student
from core.fake_quant.observers import MinMax
from core.methods import gdfq, zaq
from core.methods.early_stop import EVERY, IMAGES, EarlyStop
from core.spec import BitSpec, Budget, GdfqConfig, ZaqConfig
from core.synthesis.statistics import BatchNormStatistics


def at_once(images: Tensor) -> list[Tensor]:
    return [images]


class Rehearsal:
    """Training played by hand: after each iteration the last layer's biases are off by a given distance."""

    def __init__(self, teacher: fx.GraphModule, patience: int) -> None:
        self.student = build_student(teacher, BitSpec.parse("w8a8")).eval()
        images = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), self.student.observing(MinMax):
            self.student(images)
        bias = list(self.student.layers().values())[-1].bias
        assert isinstance(bias, Tensor)
        self.bias, self.exact = bias, bias.detach().clone()
        with torch.no_grad():
            self.stop = EarlyStop(self.student, images, teacher(images), F.l1_loss, patience, at_once)

    def play(self, distances: list[float]) -> tuple[int, dict[str, float]]:
        """(iterations until it was over or the end of `distances`, what it found)"""
        for iteration, distance in enumerate(distances):
            with torch.no_grad():
                self.bias.copy_(self.exact + distance)
            if self.stop.is_over(iteration):
                break
        return iteration, self.stop.finish(iteration)

    def kept(self) -> float:
        return float((self.bias - self.exact).mean().detach())


def test_it_stops_after_patience_without_progress_and_goes_back(teacher: fx.GraphModule) -> None:
    rehearsal = Rehearsal(teacher, patience=2 * EVERY)
    falling = [9.0 - iteration for iteration in range(EVERY + 1)]
    iteration, found = rehearsal.play([*falling, *[8.0] * 100])
    assert found["best_iteration"] == EVERY
    assert iteration == EVERY + 2 * EVERY
    assert rehearsal.kept() == pytest.approx(falling[-1], abs=1e-5)
    assert found["held_back_loss"] == pytest.approx(falling[-1], rel=0.1)


def test_it_never_stops_while_the_loss_falls(teacher: fx.GraphModule) -> None:
    distances = [8.0 - 0.1 * iteration for iteration in range(60)]
    rehearsal = Rehearsal(teacher, patience=EVERY)
    iteration, found = rehearsal.play(distances)
    assert iteration == 59 and found["best_iteration"] == 59, "the last state is measured too"
    assert rehearsal.kept() == pytest.approx(distances[-1], abs=1e-5)


def test_training_that_only_hurts_ends_with_the_untrained_student(teacher: fx.GraphModule) -> None:
    rehearsal = Rehearsal(teacher, patience=3 * EVERY)
    _, found = rehearsal.play([0.0, *[5.0] * 100])
    assert found["best_iteration"] == 0 and rehearsal.kept() == pytest.approx(0.0, abs=1e-6)
    assert found["held_back_agreement"] > 80


def test_measuring_leaves_ranges_statistics_and_mode_alone(teacher: fx.GraphModule) -> None:
    student = build_student(teacher, BitSpec.parse("w4a4"), fold=False).train()
    small, large = torch.randn(4, 3, 12, 12), 100 * torch.randn(4, 3, 12, 12)
    with torch.no_grad(), student.observing(MinMax):
        student(small)
        before = {name: value.clone() for name, value in student.state_dict().items()}
        stop = EarlyStop(student, large, teacher(large), F.l1_loss, 5, at_once)
        stop.measure(1)
        assert student.training
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
        student(large)
    quantizer = next(iter(student.activation_quantizers()))
    name = next(name for name in before if name.endswith(f"{quantizer}.scale"))
    assert student.state_dict()[name] > before[name], "observers go on afterwards"


def test_held_back_images_are_answered_in_batches_between_which_a_run_can_be_stopped(
    teacher: fx.GraphModule, tmp_path: Path
) -> None:
    """However many fit by now: the batch is halved between two measurements."""
    made: list[int] = []
    seen: list[int] = []
    asked = 0

    def canceled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 16

    settings = ZaqConfig(batch_size=32, patience=EVERY).resolved()
    context = RunContext(tmp_path, device=torch.device("cpu"), canceled=canceled)
    student = build_student(teacher, BitSpec.parse("w4a4")).eval()
    images = torch.randn(IMAGES, 3, 12, 12)
    with torch.no_grad(), student.observing(MinMax):
        student(images)
    with BatchNormStatistics(teacher) as statistics:
        game = zaq.Game(teacher, student, statistics, settings, context)
        game.generator.register_forward_pre_hook(lambda _, inputs: made.append(len(inputs[0])))
        stop = game.early_stop()
    student.graph.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    stop.measure(1)
    whole = EarlyStop(student, stop.images_NCHW, stop.wanted_NC, F.l1_loss, EVERY, at_once)
    whole.measure(1)
    assert stop.best_loss == pytest.approx(whole.best_loss, rel=1e-5)
    game.halve_batch()
    stop.measure(2)
    assert made == [64] * 2, "without gradients twice as many fit"
    assert seen == [32] * 4 + [IMAGES] + [16] * 8
    with pytest.raises(Canceled):
        stop.measure(3)
    assert len(seen) == 13


ZAQ = ZaqConfig(batch_size=8, latent_dim=8, warmup_iterations=2, student_steps=1, patience=EVERY)
GDFQ = GdfqConfig(
    batch_size=8,
    latent_dim=8,
    warmup_iterations=2,
    student_steps=1,
    distilled_images=16,
    patience=EVERY,
)


@pytest.mark.parametrize("config", [ZAQ, GDFQ], ids=["zaq", "gdfq"])
def test_methods_stop_for_lack_of_progress(
    teacher: fx.GraphModule, tmp_path: Path, config: ZaqConfig | GdfqConfig
) -> None:
    """At such rates there is none; with patience for the whole budget, all of it is spent."""
    for patience, stopped_by in ((EVERY, "no_progress"), (10 * EVERY, "iterations")):
        student = build_student(teacher, BitSpec.parse("w4a4"))
        slow = replace(
            config,
            budget=Budget(iterations=2 * EVERY),
            student_lr=1e-30,
            range_lr=1e-30,
            patience=patience,
        )
        context = RunContext(tmp_path, device=torch.device("cpu"))
        if isinstance(slow, ZaqConfig):
            summary = zaq.run(teacher, student, slow, context)
        else:
            summary = gdfq.run(teacher, student, slow, context)
        assert summary.stopped_by == stopped_by
        assert summary.iterations == (EVERY if stopped_by == "no_progress" else 2 * EVERY)
        assert {"held_back_agreement", "held_back_loss", "best_iteration"} < summary.measures.keys()


@pytest.mark.parametrize("make", [ZaqConfig, GdfqConfig])
def test_service_presets_have_patience_and_paper_presets_have_none(
    make: type[ZaqConfig] | type[GdfqConfig],
) -> None:
    assert make().resolved().patience is not None
    assert make(preset="paper").resolved().patience is None
