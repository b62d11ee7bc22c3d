"""Zero-shot adversarial quantization: ZAQ, Liu, Zhang and Wang, CVPR 2021 (arXiv 2103.15263).

A generator G looks for images on which teacher P and student Q disagree, Q learns to agree on them:

    one iteration  =  `student_steps` steps of Q, each on fresh images x = G(z), z ~ N(0, 1), then one of G
    L_Q  =  mean|Q(x) - P(x)| + alpha D(P, Q)                      logits, and features of every stage
    L_G  = -mean|Q(x) - P(x)| - alpha D(P, Q) - beta mean|F_P| + bn_weight BNS(P)

D is `scrm` or `crm` (`core.methods.discrepancy`), F_P the teacher's last feature map, BNS the distance
of the batch from the teacher's batch-normalization statistics, which the paper does not have.

`preset: paper` is the authors' public code: batch normalization kept and in train mode, activation
ranges that only ever widen, learning rate .1, times .1 after each third. Deviations: ranges stand still
in evaluation (theirs go on widening over the test images), the discrepancy's eps is 1e-3 (theirs makes
this schedule diverge in its first iteration), and nothing is selected by test accuracy: the last state
is the result.

`preset: service` is stable and bounded: batch normalization folded; the student that `fast` gives to
start from, its activation ranges learned (LSQ, arXiv 1902.08153); a generator that first learns the
batch-normalization statistics, and keeps to them by a large bn_weight; a small student learning rate
with clipped gradients and a cosine to zero; the best state on held-back images
(`core.methods.early_stop`). docs/methods/zaq.md has the measurements.

Both go back to a good state and slow down when a loss explodes, and end with Diverged when that does
not help (`core.methods.guard`).

Shapes: z_ND latents; x_NCHW images, normalized.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.fake_quant.insert import Student, parameters_in_groups
from core.fake_quant.observers import MinMax
from core.methods.attempt import Attempt
from core.methods.base import Summary, image_shape
from core.methods.discrepancy import DISCREPANCIES
from core.methods.early_stop import IMAGES
from core.methods.generative import Generative
from core.methods.optimizers import Schedule, student_optimizer
from core.methods.prepare import prepare
from core.methods.resume import resumed
from core.methods.training import Losses, Training
from core.methods.warm_up import warm_up
from core.networks.fold_bn import fold_bn, names_after_folding
from core.networks.graph import stage_outputs, with_outputs
from core.spec import ZaqConfig, ZaqSettings
from core.synthesis.distill import frozen
from core.synthesis.frame import place_images
from core.synthesis.generators import Generator, LatentNoise
from core.synthesis.precision import reduced_precision
from core.synthesis.statistics import BatchNormStatistics

_SHOWN = 64
_UNGUIDED = "No batch-normalization statistics: only the discrepancy guides the generator."


def run(teacher: fx.GraphModule, student: Student, config: ZaqConfig, context: RunContext) -> Summary:
    """Trains the student in place; see `core.methods.base.Method`. Raises Diverged."""
    settings = config.resolved()
    context.seed_everything()
    attempt = Attempt(student, settings, context)
    with ExitStack() as stack:
        stack.enter_context(frozen(teacher))
        statistics = stack.enter_context(BatchNormStatistics(teacher))
        statistics.enabled = False  # until the game asks for them
        if statistics.layers == 0:
            attempt.notes.append(_UNGUIDED)
        if settings.ranges == "widening":
            stack.enter_context(student.observing(MinMax))
        game = partial(Game, teacher, student, statistics, settings, context)
        with context.phase("synthesizing"):
            training = resumed(attempt, game) or Training(_begun(teacher, attempt, game), attempt)
        student.train(not settings.fold_bn)
        with context.phase("training", training.clock.iterations, training.clock.expected_iterations()):
            found = training.run()
            shown, measures = training.trainee.shown_images(_SHOWN)
    return training.summary(shown, measures | found)


def _begun(teacher: fx.GraphModule, attempt: Attempt, game: Callable[[], Game]) -> Game:
    """The game as training starts from it."""
    before = 0
    if attempt.settings.ranges != "widening":
        # Features are compared, so channels stay in the teacher's scale.
        before = prepare(teacher, attempt, equalize=False).steps
    begun = game()
    steps = begun.settings.warmup_iterations if begun.statistics.layers else 0
    warm_up(begun, attempt, steps=steps, least=0, before=before)
    return begun


class Game(Generative):
    """Generator and student, each with the optimizer that plays for it."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: Student,
        statistics: BatchNormStatistics,
        settings: ZaqSettings,
        context: RunContext,
    ) -> None:
        stages = stage_outputs(teacher)
        self.settings, self.statistics, self.context = settings, statistics, context
        self.student = student
        self.run_teacher = with_outputs(teacher, stages)
        # Where nobody asks for its statistics: the same numbers to rounding, in fewer passes.
        folded = fold_bn(teacher).requires_grad_(False)
        self.run_folded_teacher = with_outputs(folded, names_after_folding(teacher, folded, stages))
        self.run_student = student.with_outputs(stages)
        self.discrepancy = DISCREPANCIES[settings.discrepancy] if stages else None
        self.generator = Generator(image_shape(teacher), settings.latent_dim).to(context.device)
        place_images(self.generator, teacher)
        self.random = torch.Generator().manual_seed(context.seed)
        self.noise = LatentNoise(settings.latent_dim, context.device, self.random)
        self.weights, _ = parameters_in_groups(student)
        self.student_optimizer = student_optimizer(
            student,
            "sgd",
            lr=settings.student_lr,
            weight_decay=settings.weight_decay,
            range_lr=settings.range_lr if settings.ranges == "learned" else None,
        )
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=settings.generator_lr)
        optimizers = (self.student_optimizer, self.generator_optimizer)
        self.schedule = Schedule(optimizers, settings.schedule, parts=3)

    def iteration(self) -> Losses:
        losses: dict[str, Tensor] = {}
        for _ in range(self.settings.student_steps):
            self.context.check()
            losses = self.student_step()
        losses |= self.generator_step()
        # Read together, once: on an accelerator every number that is asked for waits for all work before it.
        return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))

    def student_step(self) -> dict[str, Tensor]:
        self.statistics.enabled = False
        with torch.no_grad():
            with reduced_precision(self.generator, self.context.device):
                x_NCHW = self.images()
            wanted = self.run_folded_teacher(x_NCHW)
        distance, discrepancy = self.disagreement(wanted, x_NCHW)
        loss = distance + self.settings.alpha * discrepancy
        self.student_optimizer.zero_grad()
        loss.backward()
        self._step(self.student_optimizer, self.weights)
        self.student.constrain()
        return {"student": distance.detach(), "discrepancy": discrepancy.detach()}

    def generator_step(self) -> dict[str, Tensor]:
        statistics = self.settings.bn_weight > 0
        self.statistics.enabled = statistics
        with frozen(self.student):
            x_NCHW = self.images()
            wanted = (self.run_teacher if statistics else self.run_folded_teacher)(x_NCHW)
            distance, discrepancy = self.disagreement(wanted, x_NCHW)
            loss = -distance - self.settings.alpha * discrepancy
            if wanted[1]:
                loss = loss - self.settings.beta * wanted[1][-1].abs().mean()
            losses: dict[str, Tensor] = {}
            bn_loss = self.statistics.loss() if statistics else None
            if bn_loss is not None:
                loss = loss + self.settings.bn_weight * bn_loss
                losses["bn_statistics"] = bn_loss.detach()
            self.generator_optimizer.zero_grad()
            loss.backward()
        self._step(self.generator_optimizer, list(self.generator.parameters()))
        return {"generator": loss.detach(), **losses}

    def warm_up_step(self) -> Losses:
        """The generator alone learns the teacher's statistics."""
        self.statistics.enabled = True
        x_NCHW = self.images()
        with reduced_precision(self.run_teacher, self.context.device):
            self.run_teacher(x_NCHW)
        loss = self.statistics.loss()
        assert loss is not None
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        return {"bn_statistics": loss.item()}

    def images(self) -> Tensor:
        images: Tensor = self.generator(self.noise(self.settings.batch_size))
        return images.float()

    def disagreement(self, wanted: tuple[Tensor, list[Tensor]], x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(L1 of the logits, D of the features); D is 0 where the network has no stages."""
        logits, features = self.run_student(x_NCHW)
        distance = F.l1_loss(logits, wanted[0])
        if self.discrepancy is None:
            return distance, torch.zeros_like(distance)
        return distance, self.discrepancy(wanted[1], features)

    def _step(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        optimizer.step()

    def set_rates(self, done: float, factor: float) -> None:
        self.schedule.set(done, factor)

    @torch.no_grad()
    def held_back(self) -> tuple[Tensor, Tensor]:
        """Of the generator as it is now."""
        self.statistics.enabled = False
        random = torch.Generator().manual_seed(self.context.seed + 1)  # the game's own sequence goes on
        noise = LatentNoise(self.settings.latent_dim, self.context.device, random)
        x_NCHW = torch.cat([self.generator(*piece) for piece in self.pieces(noise(IMAGES))])
        return x_NCHW, torch.cat([self.run_teacher(batch)[0] for batch in self.batches(x_NCHW)])

    def distance(self, logits_NC: Tensor, wanted_NC: Tensor) -> Tensor:
        return F.l1_loss(logits_NC, wanted_NC)

    @torch.no_grad()
    def shown_images(self, count: int) -> tuple[Tensor, Losses]:
        """Fresh images that nobody trained on, and their distance from the teacher's statistics."""
        self.statistics.enabled = True
        x_NCHW = self.generator(self.noise(count))
        self.run_teacher(x_NCHW)
        loss = self.statistics.loss()
        return x_NCHW.cpu(), {} if loss is None else {"bn_statistics": loss.item()}

    def restored(self) -> None:
        """Widening ranges begin anew: they may have seen infinity."""
        for quantizer in self.student.activation_quantizers().values():
            if quantizer.observer is not None:
                quantizer.observer = MinMax()

    def state_dict(self) -> dict[str, Any]:
        """With what widening ranges have seen."""
        observers = {name: q.observer for name, q in self.student.activation_quantizers().items()}
        seen = {name: o.range for name, o in observers.items() if isinstance(o, MinMax) and o.range}
        return {**super().state_dict(), "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name, quantizer in self.student.activation_quantizers().items():
            if isinstance(quantizer.observer, MinMax) and name in state["seen"]:
                low, high = state["seen"][name]
                quantizer.observer.range = low.to(self.context.device), high.to(self.context.device)
