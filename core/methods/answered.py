"""Images that stay the same, and the teacher's answers to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.context import RunContext


class Answered:
    """Batches of `images` [N, C, H, W] in random order, each image as often as any other."""

    def __init__(self, teacher: nn.Module, images: Tensor, batch_size: int, context: RunContext) -> None:
        self.images, self.batch_size, self.device = images, batch_size, context.device
        self._random = torch.Generator().manual_seed(context.seed)
        self._order = torch.empty(0, dtype=torch.long)
        with torch.no_grad():
            answers = []
            for batch in images.split(batch_size):
                context.check()
                answers.append(teacher(self._moved(batch)).cpu())
        self.wanted_NC = torch.cat(answers)

    def batch(self) -> tuple[Tensor, Tensor]:
        """(x [B, C, H, W], logits [B, classes]) on the context's device; B is N where that is less."""
        if len(self._order) == 0:
            self._order = torch.randperm(len(self.images), generator=self._random)
        chosen, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return self._moved(self.images[chosen]), self.wanted_NC[chosen].to(self.device)

    def _moved(self, images: Tensor) -> Tensor:
        return images.to(self.device, memory_format=torch.channels_last)
