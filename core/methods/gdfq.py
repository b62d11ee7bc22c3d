"""Generative low-bitwidth data-free quantization: GDFQ, Xu et al., ECCV 2020 (arXiv 2003.03603).

A generator G makes images x = G(z, y) that the teacher P takes for class y and whose statistics P's
batch normalization knows; the student S learns P's answers on them:

    L_G = CE(P(x), y) + bn_weight BNS(P, x)
    L_S = ce_weight CE(S(x), y) + kl_weight T^2 mean KL(softmax(P(x) / T) | softmax(S(x) / T))

The KL is averaged over batch *and* classes, as the authors' code has it: per image it weighs
kl_weight T^2 / classes. G warms up alone; after that each iteration is one step of G and one of S on
the same batch, for which P runs once; of `student_steps` - 1 more of S, every other sees fresh images,
those between them distilled ones (`distilled_images`, not in the paper).

`preset: paper` is the authors' code: batch normalization kept in evaluation mode, gains and offsets
trained, ranges as moving averages over the warm-up, then frozen. Deviations: the average is corrected
for its start once (theirs also corrects what it has corrected), grids are this service's, and nothing
is selected by test accuracy.

`preset: service` is bounded and starts from the student that `fast` gives: batch normalization folded,
weight grids pinned, activation ranges learned; KL alone, as AIT (arXiv 2203.17008) found better
(`inundation` is AIT's other half, `core.methods.inundation`); the best state on held-back images
(`core.methods.early_stop`).
docs/methods/gdfq.md has the measurements.

Shapes: z_ND latents; y_N classes; x_NCHW images, normalized.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.errors import Diverged
from core.fake_quant.insert import Student
from core.fake_quant.observers import MovingAverage
from core.methods.answered import Answered
from core.methods.attempt import Attempt
from core.methods.base import Summary, class_count, image_shape
from core.methods.early_stop import IMAGES
from core.methods.generative import Generative
from core.methods.inundation import inundated
from core.methods.optimizers import Schedule, student_optimizer
from core.methods.prepare import Prepared, prepare
from core.methods.resume import resumed
from core.methods.softened import softened_kl
from core.methods.training import Losses, Training
from core.methods.warm_up import warm_up
from core.spec import GdfqConfig, GdfqSettings
from core.synthesis.conditional import ClassNoise, build
from core.synthesis.distill import frozen
from core.synthesis.frame import place_images
from core.synthesis.precision import reduced_precision
from core.synthesis.statistics import BatchNormStatistics

_SHOWN_CLASSES, _SHOWN_IMAGES = 10, 8  # of each of these classes


def run(teacher: fx.GraphModule, student: Student, config: GdfqConfig, context: RunContext) -> Summary:
    """Trains the student in place; see `core.methods.base.Method`. Raises Diverged."""
    settings = config.resolved()
    context.seed_everything()
    attempt = Attempt(student, settings, context)
    with ExitStack() as stack:
        stack.enter_context(frozen(teacher))
        statistics = stack.enter_context(BatchNormStatistics(teacher, settings.statistics))
        statistics.enabled = False  # until the generator asks for them
        if statistics.layers == 0:
            attempt.notes.append("No batch-normalization statistics: only its classes guide the generator.")
        student.eval()
        lesson = partial(Lesson, teacher, student, statistics, settings, context)
        with context.phase("synthesizing"):
            training = resumed(attempt, lesson)
            training = training or Training(_begun(teacher, settings, attempt, lesson), attempt)
        with context.phase("training", training.clock.iterations, training.clock.expected_iterations()):
            found = training.run()
            images, labels, measures = training.trainee.shown_images()
    return training.summary(images, measures | found, labels)


def _begun(
    teacher: fx.GraphModule,
    settings: GdfqSettings,
    attempt: Attempt,
    lesson: Callable[[Tensor | None], Lesson],
) -> Lesson:
    """The lesson as training starts from it."""
    averaged, prepared = settings.ranges == "average", Prepared(None, steps=0)
    if not averaged:
        prepared = prepare(teacher, attempt, images=settings.distilled_images)
    begun = lesson(prepared.images)
    with attempt.student.observing(MovingAverage) if averaged else nullcontext():
        warm_up(begun, attempt, steps=settings.warmup_iterations, least=1, before=prepared.steps)
    return begun


class Lesson(Generative):
    """Generator and student, each with the optimizer that it learns by."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: Student,
        statistics: BatchNormStatistics,
        settings: GdfqSettings,
        context: RunContext,
        distilled: Tensor | None = None,
    ) -> None:
        self.teacher, self.student, self.statistics = teacher, student, statistics
        self.settings, self.context = settings, context
        self.classes = class_count(teacher)
        self.random = torch.Generator().manual_seed(context.seed)
        self.noise = self.noise_of(self.random)
        kind, eps = settings.generator, settings.generator_eps
        generator = build(image_shape(teacher), self.classes, settings.latent_dim, kind, eps)
        self.generator = generator.to(context.device)
        place_images(self.generator, teacher)
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
        optimizers = (self.student_optimizer, self.generator_optimizer)
        self.schedule = Schedule(optimizers, settings.schedule, parts=4)
        self.inundation = 0.0
        self.distilled: Answered | None = None
        if settings.distilled_images and distilled is not None:
            self.distilled = Answered.by(teacher, distilled, settings.batch_size, context)

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
        for step in range(1, self.settings.student_steps):
            self.context.check()
            if self.distilled and step % 2:
                x_NCHW, wanted_NC = self.distilled.batch()
                y_N = wanted_NC.argmax(1)
            else:
                with torch.no_grad():
                    x_NCHW, y_N = self.images()
                    wanted_NC = self.teacher(x_NCHW)
            self.student_step(x_NCHW, wanted_NC, y_N)
        return losses

    def look(self, x_NCHW: Tensor) -> Tensor:
        """The teacher's logits; its statistics are taken."""
        self.statistics.enabled = True
        with reduced_precision(self.teacher, self.context.device):
            logits: Tensor = self.teacher(x_NCHW)
        return logits.float()

    def generator_step(self, wanted_NC: Tensor, y_N: Tensor) -> Losses:
        loss = F.cross_entropy(wanted_NC, y_N)
        losses = {"generator_ce": loss.item()}
        if (bn_loss := self.statistics.loss()) is not None:
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
        with inundated(self.student, self.inundation):
            self.student_optimizer.step()
        self.student.constrain()
        return {"student": loss.item(), **losses}

    def noise_of(self, random: torch.Generator) -> ClassNoise:
        return ClassNoise(self.settings.latent_dim, self.classes, self.context.device, random)

    def halve_batch(self) -> int | None:
        half = super().halve_batch()
        if self.distilled is not None and half is not None:
            self.distilled.batch_size = half
        return half

    def images(self) -> tuple[Tensor, Tensor]:
        z_ND, y_N = self.noise(self.settings.batch_size)
        return self.generator(z_ND, y_N), y_N

    def set_rates(self, done: float, factor: float) -> None:
        """Learning rates when the share `done` of the budget is spent."""
        self.inundation = (self.settings.inundation or 0.0) * self.schedule.set(done, factor)

    @torch.no_grad()
    def held_back(self) -> tuple[Tensor, Tensor]:
        """Of the generator as it is now."""
        self.statistics.enabled = False
        drawn = self.noise_of(torch.Generator().manual_seed(self.context.seed + 1))(IMAGES)
        x_NCHW = torch.cat([self.generator(*piece) for piece in self.pieces(*drawn)])
        return x_NCHW, torch.cat([self.teacher(batch) for batch in self.batches(x_NCHW)])

    def distance(self, logits_NC: Tensor, wanted_NC: Tensor) -> Tensor:
        return softened_kl(logits_NC, wanted_NC, self.settings.temperature)

    @torch.no_grad()
    def shown_images(self) -> tuple[Tensor, Tensor, Losses]:
        """Fresh images that nobody trained on, their classes, how the teacher sees them."""
        shown = torch.linspace(0, self.classes - 1, min(self.classes, _SHOWN_CLASSES)).round().long()
        y_N = shown.repeat(_SHOWN_IMAGES).to(self.context.device)
        x_NCHW = self.generator(self.noise.latents(len(y_N)), y_N)
        recognized = (self.look(x_NCHW).argmax(1) == y_N).float().mean()
        measures = {"recognized": 100 * recognized.item()}
        if (loss := self.statistics.loss()) is not None:
            measures["bn_statistics"] = loss.item()
        return x_NCHW.cpu(), y_N.cpu(), measures

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "distilled": self.distilled and self.distilled.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if (saved := state["distilled"]) is not None:
            batch_size: int = self.settings.batch_size
            self.distilled = Answered(saved["images"], saved["wanted"], batch_size, self.context)
            self.distilled.load_state_dict(saved)
