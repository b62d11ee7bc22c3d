"""A low-bit layer as a matrix product: rows [G, O, D] of its weight times columns [G, D, N] of its input.

Shapes: G groups, O output channels of a group, D inputs of an output (channels times kernel), N samples.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.fake_quant.modules import QuantConv2d, QuantLinear

Layer = QuantConv2d | QuantLinear

_UNFOLDED = 1 << 22  # numbers, at most, in the patches that are cut out at once


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
    patches = F.unfold(_padded(layer, x[:1]), layer.kernel_size, layer.dilation, 0, layer.stride)
    places, at_once = patches.shape[2], max(1, _UNFOLDED // patches.numel())
    drawn = _drawn(places * len(x), samples)
    taken = []
    for first in range(0, len(x), at_once):
        images = _padded(layer, x[first : first + at_once])
        patches = F.unfold(images, layer.kernel_size, layer.dilation, 0, layer.stride)
        here = drawn[(drawn >= first * places) & (drawn < (first + at_once) * places)] - first * places
        taken.append(patches.transpose(0, 1).flatten(1)[:, here.to(x.device)])
    joined = torch.cat(taken, dim=1)
    return joined.view(layer.groups, -1, joined.shape[1])


def _drawn(count: int, samples: int) -> Tensor:
    """Indices of at most `samples` of `count`, the same ones every time. (A stride would meet the same
    columns of every image wherever it shares a factor with their width.)"""
    if count <= samples:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:samples].sort().values


def _padded(layer: QuantConv2d, images: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
