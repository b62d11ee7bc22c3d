"""Images that stay the same, and the teacher's answers to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.context import RunContext


class Answered:
    """Batches of `images` [N, C, H, W] with `wanted_NC` in random order, each image as often as any other."""

    def __init__(self, images: Tensor, wanted_NC: Tensor, batch_size: int, context: RunContext) -> None:
        self.images, self.wanted_NC = images, wanted_NC
        self.batch_size, self.device = batch_size, context.device
        self._random = torch.Generator().manual_seed(context.seed)
        self._order = torch.empty(0, dtype=torch.long)

    @classmethod
    def by(cls, teacher: nn.Module, images: Tensor, batch_size: int, context: RunContext) -> Answered:
        answers = []
        with torch.no_grad():
            for batch in images.split(batch_size):
                context.check()
                answers.append(teacher(_moved(batch, context.device)).cpu())
        return cls(images, torch.cat(answers), batch_size, context)

    def batch(self) -> tuple[Tensor, Tensor]:
        """(x [B, C, H, W], logits [B, classes]) on the context's device; B is N where that is less."""
        if len(self._order) == 0:
            self._order = torch.randperm(len(self.images), generator=self._random)
        chosen, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return _moved(self.images[chosen], self.device), self.wanted_NC[chosen].to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """With the images and answers."""
        order, random = self._order, self._random.get_state()
        return {"images": self.images, "wanted": self.wanted_NC, "order": order, "random": random}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.images, self.wanted_NC, self._order = state["images"], state["wanted"], state["order"]
        self._random.set_state(state["random"])


def _moved(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, memory_format=torch.channels_last)
