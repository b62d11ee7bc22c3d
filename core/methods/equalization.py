"""Channels between a layer and a depthwise convolution, scaled so that each uses the shared range.

    s f(W x + b) = f(s W x + s b)     for s > 0 and f a ReLU:  multiplied into the rows of the layer before,
    V y = (V / s) (s y)               divided out of the depthwise kernels behind

Cross-layer equalization (Nagel et al., ICCV 2019, arXiv 1906.04721, section 4.1), with s from activations
and not from weights: those of both layers have a scale for every channel, and are rounded as before. Each
channel gets the range with which its own kernel errs least, and s brings that to the widest of them, as if
the tensor had a scale for every channel. A ReLU6 is kept: what lies beyond 6 / s is clipped, and a channel
that the images hardly reach is scaled by `_LARGEST` at most. Only before depthwise layers: others mix
channels, and their weights would be harder to round (docs/decisions/0015).

Shapes: as in `core.methods.layer_matrix`; C = G channels of the tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from core.fake_quant.affine import Grid
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d
from core.fake_quant.placement import ceiling_of
from core.methods.reader import Reader
from core.networks.graph import module_of

_LARGEST = 4.0


def layers_around(graph: fx.GraphModule, quantizer: fx.Node) -> tuple[QuantConv2d, QuantConv2d] | None:
    """The convolution before the ReLU whose result is quantized there, and the depthwise one that alone
    reads it. None where it is otherwise, or where one of them runs more than once."""
    activation = quantizer.args[0]
    if not isinstance(activation, fx.Node) or ceiling_of(activation) is None:
        return None
    convolution = activation.args[0]
    assert isinstance(convolution, fx.Node)
    if any(len(node.users) != 1 for node in (convolution, activation, quantizer)):
        return None
    reader = next(iter(quantizer.users))
    before, behind = module_of(graph, convolution), module_of(graph, reader)
    if not isinstance(before, QuantConv2d) or not isinstance(behind, QuantConv2d):
        return None
    runs = [node.target for node in graph.graph.nodes]
    once = runs.count(convolution.target) == runs.count(reader.target) == 1
    return (before, behind) if once and behind.groups == behind.in_channels > 1 else None


def scales(quantizer: ActivationQuantizer, reader: Reader, x_NCHW: Tensor, ratios: list[float]) -> Tensor:
    """s_C. The candidates of a channel's range are its largest value times each of `ratios`."""
    high_C = x_NCHW.amax((0, 2, 3))
    grids = [quantizer.grid_of(torch.zeros_like(high_C), high_C * ratio) for ratio in ratios]
    best_C = torch.stack([reader.errors(grid).sum(1) for grid in grids]).argmin(0)
    range_C = high_C * high_C.new_tensor(ratios)[best_C]
    return (range_C.amax() / range_C).nan_to_num(nan=1.0).clamp(max=_LARGEST)


@torch.no_grad()
def rescale(before: QuantConv2d, behind: QuantConv2d, s_C: Tensor) -> None:
    """Multiplies the channels between the two; the grid that `before` may be pinned to goes with it."""
    column = s_C.view(-1, 1, 1, 1)
    before.weight.mul_(column)
    if before.bias is not None:
        before.bias.mul_(s_C)
    if (grid := before.fixed) is not None:
        before.fix_grid(Grid(grid.scale * s_C, grid.zero_point, grid.low, grid.high))
    behind.input_scale = s_C.repeat_interleave(behind.out_channels // behind.groups)
    behind.weight.div_(behind.input_scale.view(-1, 1, 1, 1))
    before.output_scale = s_C
