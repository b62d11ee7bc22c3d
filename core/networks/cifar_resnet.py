"""ResNets for 32x32 images, He et al. 2015 (arXiv 1512.03385), section 4.2, with option-A shortcuts.

Module names follow the widely used public checkpoints (conv1, bn1, layer1.0.conv1, …, linear), so
that those load as they are. Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTHS = (8, 14, 20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    Where the block shrinks the image or widens it, the shortcut takes every `stride`-th pixel and
    pads the new channels with zeros, half before and half after (option A).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.new_channels = c_out - c_in

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x_NCHW)))))
        return self.relu2(y_NCHW + self._shortcut(x_NCHW))  # type: ignore[no-any-return]

    def _shortcut(self, x_NCHW: Tensor) -> Tensor:
        if self.stride != 1:
            x_NCHW = x_NCHW[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x_NCHW = F.pad(x_NCHW, (0, 0, 0, 0, before, self.new_channels - before))
        return x_NCHW


class CifarResNet(nn.Module):
    """ResNet of `depth` = 6n + 2 layers: 3 stages of n blocks, 16, 32 and 64 channels wide."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, num_classes]; any H and W from 4 up."""
        x_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        x_NCHW = self.layer3(self.layer2(self.layer1(x_NCHW)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x_NCHW, 1), 1))  # type: ignore[no-any-return]


def _stage(c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(c_in, c_out, stride)
    return nn.Sequential(first, *(BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)))
