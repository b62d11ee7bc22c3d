"""The generator of ZAQ (arXiv 2103.15263), which is GDFQ's CIFAR generator without labels.

    z [N, D] -> Linear to 128 x S/4 x S/4 -> BN -> up x2 -> Conv 128, BN, LeakyReLU .2
             -> up x2 -> Conv 64, BN, LeakyReLU .2 -> Conv to C -> Tanh -> BN without affine

The last batch normalization gives every channel of a batch mean 0 and variance 1: images come out
in the network's own normalized space, whatever its mean and std.

Deviations: sides that are no multiple of the start are rounded up and cropped; sides above 64 start
from at most 16 x 16 and double more often, since the original's linear layer would have 100 million
weights at 224 x 224.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.synthesis.upsampled import UpsampledConv2d

_WIDTH = 128
_LARGEST_START = 16


class Generator(nn.Module):
    """Latent vectors [N, latent_dim] to images [N, *shape], about zero mean and unit variance.

    `shape` is (C, H, W). In training mode batch normalization uses the statistics of the batch, so
    N x H x W must be above 1.
    """

    def __init__(self, shape: tuple[int, int, int], latent_dim: int = 256) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        self.latent_dim = latent_dim
        doublings = max(2, math.ceil(math.log2(max(self.height, self.width) / _LARGEST_START)))
        self.start = (_WIDTH, *(math.ceil(side / 2**doublings) for side in shape[1:]))
        self.project = nn.Linear(latent_dim, math.prod(self.start))
        layers: list[nn.Module] = [nn.BatchNorm2d(_WIDTH)]
        for left in reversed(range(doublings)):
            width = _WIDTH if left else _WIDTH // 2
            layers += [
                UpsampledConv2d(_WIDTH, width),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [
            nn.Conv2d(_WIDTH // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        ]
        self.trunk = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, z_ND: Tensor) -> Tensor:
        x_NCHW = self.project(z_ND).unflatten(1, self.start)
        images: Tensor = self.trunk(x_NCHW.contiguous(memory_format=torch.channels_last))
        return images[:, :, : self.height, : self.width]


class LatentNoise:
    """Standard normal latents, drawn on the CPU so that every device sees the same sequence."""

    def __init__(self, latent_dim: int, device: torch.device, random: torch.Generator) -> None:
        self.latent_dim, self.device, self.random = latent_dim, device, random

    def __call__(self, count: int) -> Tensor:
        """[count, latent_dim]"""
        return torch.randn(count, self.latent_dim, generator=self.random).to(self.device)
