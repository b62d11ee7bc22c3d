"""Activation ranges from images, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from core.context import RunContext
from core.fake_quant.insert import Student
from core.fake_quant.observers import MinMax, ObserverFactory

_BATCH = 64


@torch.no_grad()
def calibrate(
    student: Student, images: Tensor, context: RunContext, observer: ObserverFactory = MinMax
) -> None:
    """Shows `images` [N, C, H, W] to the student once, in evaluation mode; its ranges are frozen after.

    Raises Diverged when a tensor holds values that are not finite.
    """
    student.eval()
    with student.observing(observer):
        for batch in images.split(_BATCH):
            context.check()
            student(batch.to(context.device, memory_format=torch.channels_last))
