"""The student in the arithmetic of ONNX Runtime's integer kernels, down to their roundings.

Fake quantization computes with floats that stand for integers. It differs from integer kernels in
a few roundings of a hundred million, and each of them grows: after fifty layers of MobileNetV2 at
w8a8, two computations that agree on all but one integer in ten million disagree on the class of
one image in twenty. So students are evaluated as the file computes:

    convolution, linear    round(Σ (x − zx) w · (sx sw / sy)) + zy        sums are whole numbers
    addition               round((za part) + a · (sa / sy) + b · (sb / sy))    in fused multiply-adds
    another grid           the same with b = 0
    hardsigmoid            the same with b = 3 and 6 sy
    product                round((a − za) (b − zb) · (sa sb / sy)) + zy
    global average pool    round(Σ (x − zx) · (sx / (sy count))) + zy

(onnxruntime/core/mlas/lib: requantize.cpp, qladd on x86-64, qlmul.cpp, qlgavgpool.cpp; rounding is half to
even.) Everything else is computed on floats and rounded by its quantizer. Float32 adds whole
numbers below 2^24 without rounding, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from core.fake_quant.affine import Grid
from core.fake_quant.insert import Student, absorbed
from core.fake_quant.modules import LARGEST_BIAS, ActivationQuantizer, QuantConv2d, QuantLinear
from core.fake_quant.placement import is_passthrough
from core.networks.graph import module_of

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantized tensor: `centered` = code − zero_point, whole numbers in float32."""

    centered: Tensor
    grid: Grid

    def floats(self) -> Tensor:
        return self.centered * self.grid.scale


@dataclass(frozen=True, slots=True)
class Sums:
    """What a layer or a global pool accumulates: whole numbers, worth `step` each (broadcasts)."""

    sums: Tensor
    step: Tensor
    count: int = 1

    def floats(self) -> Tensor:
        return self.sums * (self.step / self.count)


@dataclass(frozen=True, slots=True)
class Added:
    """(left + right) / factor."""

    left: Codes
    right: Codes
    factor: float = 1.0

    def floats(self) -> Tensor:
        return (self.left.floats() + self.right.floats()) / self.factor


_LAZY = (Codes, Sums, Added)


class IntegerStudent(nn.Module):
    """`student`, evaluated in integers; shares its modules."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.graph = student.graph

    @torch.no_grad()
    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = _Walk(self.graph).run(x_NCHW)
        return logits


class _Walk(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        assert isinstance(self.module, fx.GraphModule)
        arguments, keywords = self.fetch_args_kwargs_from_env(n)
        module = module_of(self.module, n)
        if isinstance(module, ActivationQuantizer):
            return _quantize(arguments[0], module.grid())
        x = arguments[0] if arguments else None
        if isinstance(module, QuantConv2d | QuantLinear) and isinstance(x, Codes):
            return _accumulate(module, x)
        if is_passthrough(self.module, n) and not isinstance(x, Tensor):
            return _move(n, x, arguments[1:], keywords)
        if absorbed(self.module, n):  # the quantizer behind it clips
            if n.target is aten.hardsigmoid.default and isinstance(x, Codes):
                return Added(x, _number(3.0, x), factor=6.0)
            if isinstance(x, Sums | Added):
                return x
        if isinstance(x, Codes):
            other = arguments[1] if len(arguments) > 1 else None
            if n.target is aten.add.Tensor and isinstance(other, Codes) and not keywords:
                return Added(x, other)
            if n.target is aten.mul.Tensor and isinstance(other, Codes):
                return Sums(x.centered * other.centered, x.grid.scale * other.grid.scale)
            if _pools_globally(n, x):
                return _pool(n, x)
        arguments, keywords = fx.node.map_aggregate((arguments, keywords), _floats)
        return getattr(self, n.op)(n.target, arguments, keywords)


def _floats(value: Any) -> Any:
    return value.floats() if isinstance(value, _LAZY) else value


def _accumulate(layer: QuantConv2d | QuantLinear, x: Codes) -> Sums:
    grid = layer.grid()
    shape = (-1, *[1] * (layer.weight.dim() - 1))
    weight = grid.codes(layer.weight).to(torch.float32) - grid.zero_point.view(shape)
    step = x.grid.scale * grid.scale
    bias = layer.low_bit_bias()
    if bias is not None:
        steps = torch.round(bias.double() / step.double())
        bias = steps.clamp(-LARGEST_BIAS, LARGEST_BIAS).to(torch.float32)
    if isinstance(layer, QuantLinear):
        return Sums(nn.functional.linear(x.centered, weight, bias), step)
    return Sums(layer._conv_forward(x.centered, weight, bias), step.view(-1, 1, 1))


def _quantize(value: Any, grid: Grid) -> Codes:
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    if isinstance(value, Sums):
        rounded = torch.round(value.sums * (value.step / (grid.scale * value.count)))
    elif isinstance(value, Added):
        wide = Grid(grid.scale * value.factor, grid.zero_point, grid.low, grid.high)
        rounded = _add(value.left, value.right, wide)
    elif isinstance(value, Codes):
        rounded = _add(value, None, raised(grid, value.grid) or grid)
    else:
        rounded = torch.round(value / grid.scale)  # a division, as QuantizeLinear has it
    return Codes(rounded.clamp(low, high), grid)


def _add(left: Codes, right: Codes | None, grid: Grid) -> Tensor:
    """Float64 holds the products exactly, so that rounding once to float32 is a fused multiply-add."""
    terms = [(codes, codes.grid.scale / grid.scale) for codes in (right, left) if codes is not None]
    fixed = torch.zeros(())
    for codes, ratio in terms:
        fixed = _fused(ratio, codes.grid.zero_point, fixed)
    total: Tensor = grid.zero_point - fixed
    for codes, ratio in terms:
        total = _fused(codes.centered + codes.grid.zero_point, ratio, total)
    return torch.round(total) - grid.zero_point


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a · b + c, rounded once."""
    return (a.double() * b.double() + c.double()).to(torch.float32)


def raised(grid: Grid, source: Grid) -> Grid | None:
    """The same grid at the upper end of uint8, where saturation clips what exceeds it.

    None where a code of `source` may lie below the grid: then it takes a Clip.
    """
    lowest = -source.zero_point * source.scale / grid.scale + grid.zero_point
    if source.low < 0 or float(torch.round(lowest)) < grid.low:
        return None
    return Grid(grid.scale, grid.zero_point + 255 - grid.high, 255 - grid.high, 255)


def _number(value: float, like: Codes) -> Codes:
    """A constant as the file holds it: code 1."""
    scale = torch.full_like(like.grid.scale, value)
    return Codes(torch.ones_like(scale), Grid(scale, torch.zeros_like(scale), 0, 255))


def _move(n: fx.Node, x: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    if isinstance(x, (list, tuple)):
        return x[arguments[0]]
    if not isinstance(x, Codes):
        x = x.floats()
        return n.target(x, *arguments, **keywords)  # type: ignore[operator]
    moved = n.target(x.centered, *arguments, **keywords)  # type: ignore[operator]
    if isinstance(moved, Tensor):
        return Codes(moved, x.grid)
    return [Codes(part, x.grid) for part in moved]


def _pools_globally(n: fx.Node, x: Codes) -> bool:
    if x.centered.dim() != 4:
        return False
    if n.target is aten.mean.dim:
        axes: Any = n.args[1]
        return sorted(axis % 4 for axis in axes) == [2, 3]
    return n.target is aten.adaptive_avg_pool2d.default and n.args[1] in (1, (1, 1), [1, 1])


def _pool(n: fx.Node, x: Codes) -> Sums:
    keep = n.target is not aten.mean.dim or bool(n.args[2] if len(n.args) > 2 else n.kwargs.get("keepdim"))
    count = x.centered.shape[2] * x.centered.shape[3]
    return Sums(x.centered.sum((2, 3), keepdim=keep), x.grid.scale, count)
