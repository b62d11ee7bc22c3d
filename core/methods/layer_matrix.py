"""A low-bit layer as a matrix product: rows [G, O, D] of its weight times columns [G, D, N] of its input.

Shapes: G groups, O output channels of a group, D inputs of an output (channels times kernel), N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.fake_quant.modules import QuantConv2d, QuantLinear

Layer = QuantConv2d | QuantLinear


def apply(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes with that weight and bias."""
    if isinstance(layer, QuantLinear):
        return F.linear(x, weight, bias)
    result: Tensor = layer._conv_forward(x, weight, bias)
    return result


def channel_dim(layer: Layer, output: Tensor) -> int:
    """The dimension of the output's channels."""
    return output.dim() - 1 if isinstance(layer, QuantLinear) else 1


def groups(layer: Layer) -> int:
    """A linear layer is one group."""
    return layer.groups if isinstance(layer, QuantConv2d) else 1


def rows(layer: Layer, weight: Tensor) -> Tensor:
    """The layer's weight, or what has its shape, as [G, O, D]."""
    return weight.detach().reshape(groups(layer), -1, weight[0].numel())


def columns(layer: Layer, x: Tensor, samples: int) -> Tensor:
    """What the layer multiplies its rows with: [G, D, N], N of them at most `samples`, drawn evenly."""
    if isinstance(layer, QuantLinear):
        inputs = x.reshape(-1, x.shape[-1])
        return inputs[_drawn(len(inputs), samples).to(x.device)].T[None].contiguous()
    pixels_NHWC = F.pad(x, layer._reversed_padding_repeated_twice).permute(0, 2, 3, 1)
    images, height, width, channels = pixels_NHWC.shape
    first_row, first_column = (_starts(layer, size, axis) for axis, size in enumerate((height, width)))
    drawn = _drawn(images * len(first_row) * len(first_column), samples)
    place, column = drawn // len(first_column), first_column[drawn % len(first_column)]
    image, row = place // len(first_row), first_row[place % len(first_row)]
    corner_N = (image * height + row) * width + column
    down, right = (torch.arange(k) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    within_K = (down[:, None] * width + right).flatten()
    seen_KNC = pixels_NHWC.reshape(-1, channels)[(within_K[:, None] + corner_N).to(x.device)]
    return seen_KNC.permute(2, 0, 1).reshape(layer.groups, -1, len(drawn)).contiguous()


def _starts(layer: QuantConv2d, size: int, axis: int) -> Tensor:
    """Where the kernel may stand on an axis of that many pixels."""
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    return torch.arange(0, size - reach, layer.stride[axis])


def _drawn(count: int, samples: int) -> Tensor:
    """Indices of at most `samples` of `count`, the same ones every time. (A stride would meet the same
    columns of every image wherever it shares a factor with their width.)"""
    if count <= samples:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:samples].sort().values
