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
    """What the layer multiplies its rows with: [G, D, N], at most about `samples` of them, evenly taken."""
    if isinstance(layer, QuantLinear):
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: max(1, len(rows) // samples)].T[None].contiguous()
    patches = F.unfold(_padded(layer, x[:1]), layer.kernel_size, layer.dilation, 0, layer.stride)
    every = max(1, patches.shape[2] * len(x) // samples) | 1  # odd, so that images show different places
    at_once = max(1, _UNFOLDED // patches.numel())
    taken = [
        F.unfold(_padded(layer, images), layer.kernel_size, layer.dilation, 0, layer.stride)
        .transpose(0, 1)
        .flatten(1)[:, ::every]
        for images in x.split(at_once)
    ]
    columns = torch.cat(taken, dim=1)
    return columns.view(layer.groups, -1, columns.shape[1])


def _padded(layer: QuantConv2d, images: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
