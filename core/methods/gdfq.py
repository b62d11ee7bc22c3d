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

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.errors import Diverged
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinError, MovingAverage
from core.methods.base import Summary, class_count, image_shape, thinned
from core.methods.calibrate import calibrate
from core.methods.clock import Clock
from core.methods.early_stop import IMAGES, EarlyStop
from core.methods.guard import Part
from core.methods.inundation import inundated
from core.methods.optimizers import Schedule, student_optimizer
from core.methods.softened import softened_kl
from core.methods.training import Losses, train
from core.spec import GdfqConfig, GdfqSettings
from core.synthesis.conditional import ClassNoise, build
from core.synthesis.distill import distill, frozen
from core.synthesis.statistics import BatchNormStatistics

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
        stop = lesson.early_stop() if settings.patience else None
        with context.phase("training"):
            history = train(lesson, clock, context, notes, stop)
        student.learn_ranges(False)
        found = stop.finish(clock.iterations) if stop else {}
        images, labels, measures = lesson.shown_images()
    return Summary(
        iterations=clock.iterations,
        seconds=clock.seconds(),
        stopped_by=clock.stopped_by(),
        images=images,
        labels=labels,
        losses=thinned(history),
        measures=measures | found,
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
        self.student_optimizer = student_optimizer(
            student,
            settings.optimizer,
            lr=settings.student_lr,
            weight_decay=settings.weight_decay,
            range_lr=settings.range_lr if settings.ranges == "learned" else None,
        )
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=settings.generator_lr, betas=(0.5, 0.999)
        )
        self.optimizers = (self.student_optimizer, self.generator_optimizer)
        self.schedule = Schedule(self.optimizers, settings.schedule, parts=4)
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
            nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.clip_norm)
        with inundated(self.student, self.share):
            self.student_optimizer.step()
        self.student.constrain()
        return {"student": loss.item(), **losses}

    def images(self) -> tuple[Tensor, Tensor]:
        z_ND, y_N = self.noise(self.settings.batch_size)
        return self.generator(z_ND, y_N), y_N

    def set_rates(self, done: float, factor: float) -> None:
        """Learning rates when the share `done` of the budget is spent."""
        self.share = (self.settings.inundation or 0.0) * self.schedule.set(done, factor)

    @torch.no_grad()
    def early_stop(self) -> EarlyStop:
        """On images of the generator as it is now, which the student will never be trained on."""
        assert self.settings.patience is not None
        self.statistics.enabled = False
        x_NCHW = self.generator(*self.noise(IMAGES))
        loss = partial(softened_kl, temperature=self.settings.temperature)
        return EarlyStop(self.student, x_NCHW, self.teacher(x_NCHW), loss, self.settings.patience)

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

    def restored(self) -> None:
        """Nothing else has a state."""
