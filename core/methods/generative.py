"""What methods share in which a generator makes the images that the student learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.fake_quant.insert import Student
from core.methods.early_stop import EarlyStop, Loss
from core.methods.guard import Part
from core.methods.memory import Halving
from core.methods.optimizers import Schedule


class Generative(Halving):
    """Generator and student, the optimizers that they learn by, and the noise that images are made of.

    `random` draws that noise; `distance` is how answers to held-back images are compared.
    """

    student: Student
    generator: nn.Module
    schedule: Schedule
    random: torch.Generator
    distance: Loss

    def held_back(self) -> tuple[Tensor, Tensor]:
        """Images that the student will never be trained on, and the teacher's logits."""
        raise NotImplementedError

    def early_stop(self, held_back: tuple[Tensor, Tensor] | None = None) -> EarlyStop | None:
        """On images of the generator as it is now, or on those given; None where training has no patience."""
        patience: int | None = self.settings.patience
        if patience is None:
            return None
        images_NCHW, wanted_NC = held_back or self.held_back()
        return EarlyStop(self.student, images_NCHW, wanted_NC, self.distance, patience, self.batches)

    def parts(self) -> Sequence[Part]:
        return self.student, self.generator, *self.schedule.optimizers

    def restored(self) -> None:
        """Called after the parts went back to an earlier state."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors are those in use, not copies."""
        layers = self.student.layers().items()
        return {
            "parts": [dict(part.state_dict()) for part in self.parts()],
            "scales": {name: [layer.input_scale, layer.output_scale] for name, layer in layers},
            "random": self.random.get_state(),
            "batch_size": self.settings.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts(), state["parts"], strict=True):
            part.load_state_dict(saved)
        for name, layer in self.student.layers().items():
            input_scale, output_scale = state["scales"][name]
            layer.input_scale, layer.output_scale = (
                None if scale is None else scale.to(layer.weight) for scale in (input_scale, output_scale)
            )
        self.random.set_state(state["random"])
        self.settings = replace(self.settings, batch_size=int(state["batch_size"]))
