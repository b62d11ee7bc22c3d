"""Layers with weights: made from the tensors and arguments of ATen operators, and told apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def conv2d(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> nn.Module:
    def pair(value: Any) -> Any:
        return value if isinstance(value, str) else (tuple(value) * 2)[:2]

    out_channels, in_channels, *kernel = weight.shape
    layer = nn.Conv2d(
        in_channels * groups,
        out_channels,
        (kernel[0], kernel[1]),
        pair(stride),
        pair(padding),
        pair(dilation),
        groups,
        bias is not None,
        device="meta",
    )
    return _fill(layer, weight, bias)


def conv1d_as_2d(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> nn.Module:
    """For images of height 1."""
    return conv2d(weight.unsqueeze(2), bias, (1, *stride), (0, *padding), (1, *dilation), groups)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    return _fill(nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta"), weight, bias)


def layer_norm(
    shape: Any, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> nn.Module:
    return _fill(nn.LayerNorm(list(shape), eps, bias=bias is not None, device="meta"), weight, bias)


def batch_norm(*arguments: Any) -> nn.Module:
    return _fill_norm(nn.BatchNorm2d, *arguments)


def batch_norm_1d(*arguments: Any) -> nn.Module:
    return _fill_norm(nn.BatchNorm1d, *arguments)


def _fill_norm(
    kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d],
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> nn.Module:
    layer = kind(len(mean), eps, momentum)
    assert layer.running_mean is not None and layer.running_var is not None
    with torch.no_grad():
        if weight is not None:
            layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
    return layer


def _fill(layer: nn.Conv2d | nn.Linear | nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each of its filters reads a single channel of several."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def has_depthwise(network: nn.Module) -> bool:
    return any(map(is_depthwise, network.modules()))
