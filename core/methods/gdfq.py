"""Generative low-bitwidth data-free quantization: GDFQ, Xu et al., ECCV 2020 (arXiv 2003.03603).

A generator G makes images x = G(z, y) that the teacher P takes for class y and whose statistics P's
batch normalization knows; the student S learns P's answers on them:

    L_G = CE(P(x), y) + bn_weight BNS(P, x)
    L_S = ce_weight CE(S(x), y) + kl_weight T^2 mean KL(softmax(P(x) / T) | softmax(S(x) / T))

The KL is averaged over batch *and* classes, as the authors' code has it: per image, its weight is
kl_weight T^2 / classes, 40 for ten classes. G warms up alone; after that each iteration is one step
of G and one of S on the same batch, for which P runs once (`student_steps` - 1 more of S see fresh
images). S is in evaluation mode throughout.

`preset: paper` is the authors' code: batch normalization kept, gains and offsets trained, activation
ranges as moving averages over the warm-up, then frozen. Deviations: the moving average is corrected
for its start once (theirs corrects what it has already corrected, and peaks at 3945 times the
range), grids are this service's, and nothing is selected by test accuracy.

`preset: service` is bounded: batch normalization folded, ranges of least rounding error on distilled
images, then learned; KL alone, as AIT (arXiv 2203.17008) found better; `inundation` is AIT's other
half (`core.methods.inundation`). docs/methods/gdfq.md has the measurements.

Shapes: z_ND latents; y_N classes; x_NCHW images, normalized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.errors import Diverged
from core.fake_quant.insert import Student, parameters_in_groups
from core.fake_quant.observers import MinError, MovingAverage
from core.methods.base import Summary, class_count, image_shape, thinned
from core.methods.calibrate import calibrate
from core.methods.clock import Clock
from core.methods.guard import Guard, Part
from core.methods.inundation import inundated
from core.spec import GdfqConfig, GdfqSettings
from core.synthesis.conditional import ClassNoise, build
from core.synthesis.distill import distill, frozen
from core.synthesis.statistics import BatchNormStatistics

Losses = dict[str, float]

_CALIBRATION_IMAGES, _CALIBRATION_ITERATIONS = 64, 100
_SHOWN_CLASSES, _SHOWN_IMAGES = 10, 8  # of each of these classes
_SYNTHESIS_SHARE = 0.3  # of a budget in seconds, at most, goes into distillation and the generator's warm-up


def run(teacher: fx.GraphModule, student: Student, config: GdfqConfig, context: RunContext) -> Summary:
    """Trains the student in place; see `core.methods.base.Method`. Raises Diverged."""
    settings = config.resolved()
    context.seed_everything()
    clock = Clock(settings.budget)
    notes: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(frozen(teacher))
        statistics = stack.enter_context(BatchNormStatistics(teacher, settings.statistics))
        if statistics.layers == 0:
            notes.append("No batch-normalization statistics: only its classes guide the generator.")
        student.eval()
        with context.phase("synthesizing"):
            before = 0
            if settings.ranges != "average":
                before = _CALIBRATION_ITERATIONS if statistics.layers else 0
                prepare(teacher, student, settings, clock, context)
            lesson = Lesson(teacher, student, statistics, settings, context)
            _warm_up(lesson, clock, context, before)
        with context.phase("training"):
            history = list(_train(lesson, clock, context, notes))
        student.learn_ranges(False)
        images, labels, measures = lesson.shown_images()
    return Summary(
        iterations=clock.iterations,
        seconds=clock.seconds(),
        stopped_by="iterations" if settings.budget.iterations else "seconds",
        images=images,
        labels=labels,
        losses=thinned(history),
        measures=measures,
        settings=asdict(settings),
        notes=notes,
    )


def prepare(
    teacher: fx.GraphModule, student: Student, settings: GdfqSettings, clock: Clock, context: RunContext
) -> None:
    """Brings the student to where training starts: ranges of least rounding error on distilled images."""
    images = distill(
        teacher,
        image_shape(teacher),
        images=_CALIBRATION_IMAGES,
        iterations=_CALIBRATION_ITERATIONS,
        context=context,
        enough=lambda: clock.share() > _SYNTHESIS_SHARE / 2,
        later_steps=settings.warmup_iterations,
    ).images
    calibrate(student, images, context, MinError)


def _warm_up(lesson: Lesson, clock: Clock, context: RunContext, before: int) -> None:
    """The generator alone, at least one step; `before` steps were reported in the phase."""
    steps = lesson.settings.warmup_iterations
    with ExitStack() as stack:
        if lesson.settings.ranges == "average":
            stack.enter_context(lesson.student.observing(MovingAverage))
        for step in range(steps):
            if step and clock.share() > _SYNTHESIS_SHARE:
                break
            context.step(before + step + 1, before + steps, lesson.warm_up_step())


def _train(lesson: Lesson, clock: Clock, context: RunContext, notes: list[str]) -> Iterator[Losses]:
    """The losses of each iteration, until the budget is spent."""
    guard = Guard(lesson.parts(), "student", notes, restored=lambda: None)
    while (done := clock.training_share()) < 1:
        lesson.set_rates(done, guard.rate)
        try:
            losses = lesson.iteration()
        except Diverged:  # the activations are not finite: no loss will be
            losses = {"student": math.nan}
        clock.iterations += 1
        if guard.accepts(clock.iterations, losses):
            context.step(clock.iterations, clock.expected_iterations(), losses)
            yield {"iteration": float(clock.iterations), **losses}


class Lesson:
    """Generator and student, each with the optimizer that it learns by."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: Student,
        statistics: BatchNormStatistics,
        settings: GdfqSettings,
        context: RunContext,
    ) -> None:
        self.teacher, self.student, self.statistics = teacher, student, statistics
        self.settings, self.context = settings, context
        classes = class_count(teacher)
        random = torch.Generator().manual_seed(context.seed)
        self.noise = ClassNoise(settings.latent_dim, classes, context.device, random)
        self.generator = build(image_shape(teacher), classes, settings.latent_dim, settings.generator)
        self.generator.to(context.device)
        self.weights, scales = parameters_in_groups(student)
        groups: list[dict[str, Any]] = [{"params": self.weights, "weight_decay": settings.weight_decay}]
        if settings.ranges == "learned":
            student.learn_ranges(True)
            groups.append({"params": scales, "lr": settings.range_lr})
        self.student_optimizer: torch.optim.Optimizer
        if settings.optimizer == "adam":
            self.student_optimizer = torch.optim.Adam(groups, lr=settings.student_lr)
        else:
            self.student_optimizer = torch.optim.SGD(
                groups, lr=settings.student_lr, momentum=0.9, nesterov=True
            )
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=settings.generator_lr, betas=(0.5, 0.999)
        )
        self.optimizers = (self.student_optimizer, self.generator_optimizer)
        self.base_rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.share = 0.0

    def warm_up_step(self) -> Losses:
        x_NCHW, y_N = self.images()
        losses = self.generator_step(self.look(x_NCHW), y_N)
        if self.settings.ranges == "average":
            with torch.no_grad():
                self.student(x_NCHW)
        return losses

    def iteration(self) -> Losses:
        x_NCHW, y_N = self.images()
        wanted_NC = self.look(x_NCHW)
        losses = self.generator_step(wanted_NC, y_N)
        losses |= self.student_step(x_NCHW.detach(), wanted_NC.detach(), y_N)
        self.statistics.enabled = False
        for _ in range(self.settings.student_steps - 1):
            self.context.check()
            with torch.no_grad():
                x_NCHW, y_N = self.images()
                wanted_NC = self.teacher(x_NCHW)
            self.student_step(x_NCHW, wanted_NC, y_N)
        return losses

    def look(self, x_NCHW: Tensor) -> Tensor:
        """The teacher's logits; its statistics are taken."""
        self.statistics.enabled = True
        logits: Tensor = self.teacher(x_NCHW)
        return logits

    def generator_step(self, wanted_NC: Tensor, y_N: Tensor) -> Losses:
        loss = F.cross_entropy(wanted_NC, y_N)
        losses = {"generator_ce": loss.item()}
        bn_loss = self.statistics.loss()
        if bn_loss is not None:
            loss = loss + self.settings.bn_weight * bn_loss
            losses["bn_statistics"] = bn_loss.item()
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        return losses

    def student_step(self, x_NCHW: Tensor, wanted_NC: Tensor, y_N: Tensor) -> Losses:
        logits_NC = self.student(x_NCHW)
        kl = softened_kl(logits_NC, wanted_NC, self.settings.temperature)
        loss = self.settings.kl_weight * kl
        losses = {"kl": kl.item()}
        if self.settings.ce_weight:
            ce = F.cross_entropy(logits_NC, y_N)
            loss = loss + self.settings.ce_weight * ce
            losses["student_ce"] = ce.item()
        if not loss.isfinite():
            raise Diverged("The student's loss is not finite.")
        self.student_optimizer.zero_grad()
        loss.backward()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.settings.clip_norm)
        with inundated(self.student, self.share):
            self.student_optimizer.step()
        self.student.constrain()
        return {"student": loss.item(), **losses}

    def images(self) -> tuple[Tensor, Tensor]:
        z_ND, y_N = self.noise(self.settings.batch_size)
        return self.generator(z_ND, y_N), y_N

    def set_rates(self, done: float, factor: float) -> None:
        """Learning rates when the share `done` of the budget is spent."""
        steps = self.settings.schedule == "steps"
        fall = 0.1 ** int(4 * done) if steps else 0.5 + 0.5 * math.cos(math.pi * done)
        self.share = (self.settings.inundation or 0.0) * fall * factor
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * fall * factor

    @torch.no_grad()
    def shown_images(self) -> tuple[Tensor, Tensor, Losses]:
        """Fresh images that nobody trained on, their classes, how the teacher sees them."""
        classes = self.noise.classes
        shown = torch.linspace(0, classes - 1, min(classes, _SHOWN_CLASSES)).round().long()
        y_N = shown.repeat(_SHOWN_IMAGES).to(self.context.device)
        x_NCHW = self.generator(self.noise.latents(len(y_N)), y_N)
        recognized = (self.look(x_NCHW).argmax(1) == y_N).float().mean()
        measures = {"recognized": 100 * recognized.item()}
        loss = self.statistics.loss()
        if loss is not None:
            measures["bn_statistics"] = loss.item()
        return x_NCHW.cpu(), y_N.cpu(), measures

    def parts(self) -> Sequence[Part]:
        return self.student, self.generator, *self.optimizers


def softened_kl(logits_NC: Tensor, wanted_NC: Tensor, temperature: float) -> Tensor:
    """Scalar: T^2 KL(softmax(wanted / T) | softmax(logits / T)), averaged over batch and classes."""
    student_NC = F.log_softmax(logits_NC / temperature, dim=1)
    teacher_NC = F.log_softmax(wanted_NC / temperature, dim=1)
    return temperature**2 * F.kl_div(student_NC, teacher_NC, reduction="none", log_target=True).mean()
