"""A 3 × 3 convolution of an image enlarged to twice its side, without enlarging it.

Enlarged by repetition, every 3 × 3 window lies on 2 × 2 different pixels. Output pixels of each parity
are a 2 × 2 convolution of the small image, whose weights are sums of the nine: 4 multiplications in
place of 9. Together they are a transposed convolution of stride 2 with a 4 × 4 kernel, the nine weights
spread over 2 × 2 ones.

Shapes: N images, I and O channels, H x W pixels of the small image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UpsampledConv2d(nn.Conv2d):
    """nn.Upsample(scale_factor=2) and nn.Conv2d(I, O, 3, padding=1): [N, I, H, W] to [N, O, 2H, 2W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        w_IOHW = spread(self.weight).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(input, w_IOHW, self.bias, stride=2, padding=1)


def spread(w_OIHW: Tensor) -> Tensor:
    """[O, I, 3, 3] to the kernel [O, I, 4, 4] of the transposed convolution, which reads it mirrored."""
    padded = F.pad(w_OIHW.flip(2, 3), (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]
