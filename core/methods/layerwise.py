"""One pass through the network that finds every range, weight and bias of a student, without training.

Teacher and student run side by side, operator by operator, on the same images. Where the student has

    a quantizer,    its range is the one with which the layers behind it err least: min over ranges of
                    sum over readers |W (q(x) - x)|². Rounding errors average out in a layer's sums and
                    clipping errors do not, so that ranges of least |q(x) - x|² are too narrow;
    a layer,        its weight is the least-squares answer to what the student's inputs x' have become,
                    argmin |W x - W' x'|² + ridge |W - W'|² over centred inputs, rounded by GPTQ (or
                    the weight itself, rounded by SQuant or to nearest), and its bias brings the means
                    of the outputs back to the teacher's (bias correction: Nagel et al., ICCV 2019,
                    arXiv 1906.04721, section 4.2; here from images).

What comes later in the network sees, and mends, what rounding did before it.

Shapes: G groups, O output channels of a group, D inputs of an output (channels times kernel), N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from core.errors import Diverged
from core.fake_quant.affine import Grid, fake_quantize, weight_grid
from core.fake_quant.insert import Student
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d, QuantLinear
from core.fake_quant.observers import MinError
from core.fake_quant.placement import is_passthrough
from core.fake_quant.rounding import gptq, squant
from core.networks.graph import module_of

Rounding = Literal["gptq", "squant", "nearest"]
Layer = QuantConv2d | QuantLinear

_SAMPLES = 4096  # at most, of all positions of all images, for a layer's second moments
_RANGE_SAMPLES = 1024
_UNFOLDED = 1 << 22  # numbers, at most, in the patches that are cut out at once
_RANGE_RATIOS = torch.linspace(1.0, 0.2, 17).tolist()
_WEIGHT_RATIOS = torch.linspace(1.0, 0.5, 11).tolist()
_RIDGE, _DAMPING = 1.0, 1.0  # times the mean second moment: see docs/methods/fast.md


class Pair(NamedTuple):
    """A value of the graph, as the teacher and as the student has it."""

    teacher: Any
    student: Any


@torch.no_grad()
def solve(
    student: Student,
    images: Tensor,
    *,
    rounding: Rounding = "gptq",
    check: Callable[[], None] = lambda: None,
) -> None:
    """Sets the student's ranges, weights and biases in place, from `images` [N, C, H, W] on its device.

    The student is fresh: folded, with the teacher's weights. Its weights' grids are pinned afterwards.
    `check` is called at every operator. Raises Diverged when a tensor holds values that are not finite.
    """
    student.eval()
    _Lockstep(student.graph, rounding, check).run(images.contiguous(memory_format=torch.channels_last))


class _Lockstep(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, rounding: Rounding, check: Callable[[], None]) -> None:
        super().__init__(graph)
        self.graph_module, self.rounding, self.check = graph, rounding, check
        self.solved: dict[Layer, tuple[Tensor, Tensor | None]] = {}  # the teacher's weights and biases

    def run_node(self, n: fx.Node) -> Any:
        self.check()
        if n.op in ("placeholder", "get_attr"):
            value = super().run_node(n)
            return Pair(value, value)
        arguments = self.fetch_args_kwargs_from_env(n)
        (x, *_), _ = of_teacher = _side(arguments, 0)
        (y, *_), _ = of_student = _side(arguments, 1)
        if n.op == "output":
            return y
        module = module_of(self.graph_module, n)
        if isinstance(module, ActivationQuantizer):
            self.find_range(n, module, y)
            return Pair(x, module(y))
        if isinstance(module, QuantConv2d | QuantLinear):
            weight, bias = self.solved.get(module, (module.weight, module.bias))
            wanted = _apply(module, x, weight, bias)
            if module not in self.solved:
                self.solved[module] = (weight.clone(), None if bias is None else bias.clone())
                find_weight(module, x, y, wanted, self.rounding)
            return Pair(wanted, module(y))
        run = getattr(self, n.op)
        return Pair(*(run(n.target, *side) for side in (of_teacher, of_student)))

    def find_range(self, node: fx.Node, quantizer: ActivationQuantizer, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        if not bool(low.isfinite() & high.isfinite()):
            raise Diverged("The network's activations are not finite; no range can hold them.")
        readers = list(self.readers(node, x))
        if not readers:  # additions, pooling, gates
            low, high = MinError(steps=20, samples=1 << 14)(x, quantizer.grid_of)
            quantizer.set_range(low, high)
            return
        tables = [(_rows(layer), _columns(layer, seen, _RANGE_SAMPLES)) for layer, seen in readers]
        errors = []
        for ratio in _RANGE_RATIOS:
            quantizer.set_range(low * ratio, high * ratio)
            grid = quantizer.grid()
            errors.append(sum(_output_error(w, fake_quantize(x, grid) - x) for w, x in tables))
        best = _RANGE_RATIOS[int(torch.stack(errors).argmin())]  # type: ignore[arg-type]
        quantizer.set_range(low * best, high * best)

    def readers(self, node: fx.Node, x: Tensor) -> Iterator[tuple[Layer, Tensor]]:
        """The layers that read the node's value x, and as what where it is moved on the way."""
        for user in node.users:
            module = module_of(self.graph_module, user)
            if isinstance(module, QuantConv2d | QuantLinear):
                yield module, x
            elif is_passthrough(self.graph_module, user) and self.is_known(user, node):
                inputs = fx.map_arg(
                    (user.args, user.kwargs), lambda a: x if a is node else self.env[a].student
                )
                yield from self.readers(user, user.target(*inputs[0], **inputs[1]))  # type: ignore[operator]

    def is_known(self, user: fx.Node, node: fx.Node) -> bool:
        return all(other is node or other in self.env for other in user.all_input_nodes)


def find_weight(layer: Layer, x: Tensor, y: Tensor, wanted: Tensor, rounding: Rounding) -> None:
    """Rounds the layer's weight and corrects its bias.

    x is what the teacher's layer reads, y what the student's does, `wanted` the teacher's output.
    """
    weight_GOD = _rows(layer)
    if rounding == "gptq":
        seen_GDN = _columns(layer, y, _SAMPLES)
        seen_GDN -= seen_GDN.mean(2, keepdim=True)
        full_GDN = _columns(layer, x, _SAMPLES)
        full_GDN -= full_GDN.mean(2, keepdim=True)
        moments = _Moments.of(seen_GDN)
        weight_GOD = moments.regression(weight_GOD, full_GDN, seen_GDN)
        grid = moments.grid(layer, weight_GOD)
        codes = gptq(weight_GOD, grid, moments.damped(_DAMPING))
    else:
        grid = weight_grid(layer.weight, layer.bits, layer.bias, symmetric=layer.symmetric)
        codes = _rounded(layer, grid, rounding)
    rounded = grid.values(codes.flatten(0, 1)).view_as(layer.weight)
    if layer.bias is not None:
        reads = y if rounding == "gptq" else x  # without regression only the weight's error is the layer's
        missing = wanted - _apply(layer, reads, rounded, None)
        layer.bias.copy_(missing.mean([d for d in range(missing.dim()) if d != _channels(layer, missing)]))
    layer.weight.copy_(rounded)
    layer.fix_grid(grid)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Second moments of a layer's centred inputs: `matrix` [G, D, D], and their mean diagonal [G]."""

    matrix: Tensor
    mean: Tensor
    samples: int

    @classmethod
    def of(cls, seen_GDN: Tensor) -> _Moments:
        samples = seen_GDN.shape[2]
        matrix = seen_GDN @ seen_GDN.transpose(1, 2) / samples
        mean = matrix.diagonal(dim1=1, dim2=2).mean(1)
        return cls(matrix, torch.where(mean > 0, mean, 1.0), samples)

    def damped(self, share: float) -> Tensor:
        return self.matrix + torch.diag_embed((share * self.mean)[:, None].expand(self.matrix.shape[:2]))

    def regression(self, weight_GOD: Tensor, full_GDN: Tensor, seen_GDN: Tensor) -> Tensor:
        """argmin over W' of |W full - W' seen|² + ridge |W - W'|²"""
        across = weight_GOD @ (full_GDN @ seen_GDN.transpose(1, 2) / self.samples)
        across += _RIDGE * self.mean[:, None, None] * weight_GOD
        factor = torch.linalg.cholesky(self.damped(_RIDGE))
        return torch.cholesky_solve(across.transpose(1, 2), factor).transpose(1, 2).contiguous()

    def grid(self, layer: Layer, weight_GOD: Tensor) -> Grid:
        """Of each channel, the part of its min-max range with which its outputs err least."""
        rows = weight_GOD.flatten(0, 1)
        grids = [
            weight_grid(rows * ratio, layer.bits, layer.bias, symmetric=layer.symmetric)
            for ratio in (_WEIGHT_RATIOS if layer.bits < 8 else [1.0])
        ]
        errors = []
        for grid in grids:
            error_GOD = (grid.values(grid.codes(rows)) - rows).view_as(weight_GOD)
            errors.append(((error_GOD @ self.matrix) * error_GOD).sum(2).flatten())
        best = torch.stack(errors).argmin(0, keepdim=True)
        scale = torch.stack([grid.scale for grid in grids]).gather(0, best)[0]
        zero_point = torch.stack([grid.zero_point for grid in grids]).gather(0, best)[0]
        return Grid(scale, zero_point, grids[0].low, grids[0].high)


def _rounded(layer: Layer, grid: Grid, rounding: Rounding) -> Tensor:
    """Codes [1, O, D] without data."""
    rows = layer.weight.flatten(1)
    if rounding == "nearest":
        return grid.codes(rows).float()[None]
    position = rows / grid.scale[:, None] + grid.zero_point[:, None]
    kernels = layer.weight.shape[1]
    return squant(position.view(len(rows), kernels, -1), grid.low, grid.high).flatten(1)[None]


def _apply(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, QuantLinear):
        return F.linear(x, weight, bias)
    result: Tensor = layer._conv_forward(x, weight, bias)
    return result


def _channels(layer: Layer, output: Tensor) -> int:
    """The dimension of the output's channels."""
    return output.dim() - 1 if isinstance(layer, QuantLinear) else 1


def _groups(layer: Layer) -> int:
    return layer.groups if isinstance(layer, QuantConv2d) else 1


def _rows(layer: Layer) -> Tensor:
    """The weight as [G, O, D]."""
    return layer.weight.detach().reshape(_groups(layer), -1, layer.weight[0].numel())


def _columns(layer: Layer, x: Tensor, samples: int) -> Tensor:
    """What the layer multiplies its rows with: [G, D, N], at most about `samples` of them, evenly taken."""
    if isinstance(layer, QuantLinear):
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: max(1, len(rows) // samples)].T[None].contiguous()
    padded = _padded(layer, x[:1])
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
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


def _padded(layer: QuantConv2d, image: Tensor) -> Tensor:
    if isinstance(layer.padding, str):
        return F.pad(image, layer._reversed_padding_repeated_twice)
    height, width = layer.padding
    return F.pad(image, (width, width, height, height))


def _output_error(weight_GOD: Tensor, error_GDN: Tensor) -> Tensor:
    return (weight_GOD @ error_GDN).square().mean(2).sum()


def _side(value: Any, index: int) -> Any:
    """The arguments as one of the two has them. (fx's own map does not look into named tuples.)"""
    if isinstance(value, Pair):
        return value[index]
    if isinstance(value, tuple):
        return tuple(_side(item, index) for item in value)
    if isinstance(value, list):
        return [_side(item, index) for item in value]
    if isinstance(value, dict):
        return {key: _side(item, index) for key, item in value.items()}
    return value
