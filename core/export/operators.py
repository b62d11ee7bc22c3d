"""ATen operators without weights as ONNX operators.

Each function takes the emitter and the fx node, emits ONNX nodes on the tensors that the emitter
hands out, and returns the name of the result. `MOVES` only move values, so they run on integer
codes as well as on floats; `COMPUTES` run on floats, which ONNX Runtime fuses with the
quantizers around them into integer kernels where it has such kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import Any, Protocol

import numpy as np
import torch
from onnx import helper
from torch import fx

from core.errors import ArchitectureError
from core.export.builder import INPUT, Builder
from core.fake_quant.placement import SPLITS, pads_for_maximum
from core.networks.graph import shape_of

aten = torch.ops.aten

_END = 2**62  # where a slice that goes to the end ends


class Tensors(Protocol):
    """What an operator may ask of the emitter."""

    builder: Builder

    def value(self, argument: Any) -> str:
        """Name of the ONNX tensor that holds an fx argument (a node or a number), as float32."""

    def operands(self, arguments: Sequence[Any]) -> list[str]:
        """The same for all operands of one operator; numbers beside integer codes become codes too."""


Operator = Callable[[Tensors, fx.Node], str]


def source_of(node: fx.Node) -> fx.Node:
    """The node whose value comes first."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """The node's positional arguments after the first, defaults where absent (keywords by schema order)."""
    given = list(node.args[1:])
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments][1:]
    for index in range(len(given), len(defaults)):
        given.append(node.kwargs.get(names[index], defaults[index]))
    return given


def static_shape(node: fx.Node) -> tuple[int, ...]:
    shape = shape_of(node)
    assert shape is not None, node
    if sum(size == -1 for size in shape) > 1:
        raise unsupported(node, "several of its sizes depend on the batch")
    return shape


def unsupported(node: fx.Node, why: str) -> ArchitectureError:
    return ArchitectureError(
        f"The network uses {node.target} in a way that cannot be exported: {why}.",
        code="unsupported_operator",
        field="architecture",
    )


def pair(value: Any) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return (values * 2)[:2]


# --- operators that move values: `x` is the name of the tensor, float or codes --------------------


def max_pool(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    kernel, stride, padding, dilation, ceil = arguments(node, None, [], 0, 1, False)
    kernel = pair(kernel)
    return b.node(
        "MaxPool",
        [x],
        node.name,
        kernel_shape=kernel,
        strides=pair(stride) if stride else kernel,
        pads=pair(padding) * 2,
        dilations=pair(dilation),
        ceil_mode=int(ceil),
    )


def reshape(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    return b.node("Reshape", [x, b.shared(static_shape(node), np.int64)], node.name)


def permute(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    rank = len(static_shape(node))
    order = [axis % rank for axis in arguments(node)[0]]
    return b.node("Transpose", [x], node.name, perm=order)


def transpose(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    rank = len(static_shape(node))
    order = list(range(rank))
    first, second = (axis % rank for axis in arguments(node)[:2])
    order[first], order[second] = order[second], order[first]
    return b.node("Transpose", [x], node.name, perm=order)


def slice_(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    axis, start, end, step = arguments(node, 0, None, None, 1)
    if any(isinstance(value, fx.Node) for value in (start, end, step)):
        raise unsupported(node, "its bounds depend on the batch")
    bounds = [start or 0, min(end if end is not None else _END, _END), axis, step]
    return b.node("Slice", [x, *(b.shared([value], np.int64) for value in bounds)], node.name)


def select(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    axis, index = arguments(node)
    return b.node("Gather", [x, b.shared(index, np.int64)], node.name, axis=axis)


def roll(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    """The last `shift` values of an axis go before the others."""
    sizes = static_shape(node)
    shifts, axes = arguments(node, None, [])
    if not axes:
        raise unsupported(node, "it rolls the flattened tensor")
    for shift, axis in zip(shifts, axes, strict=True):
        split = -shift % sizes[axis]
        if not split:
            continue
        label = f"{node.name}.axis{axis}"
        first = _slice(b, x, 0, split, axis, f"{label}.first")
        rest = _slice(b, x, split, _END, axis, f"{label}.rest")
        x = b.node("Concat", [rest, first], label, axis=axis)
    return x


def pad(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    value = _lowest_like(b, zero) if pads_for_maximum(node) else zero
    return b.node("Pad", [x, _pads(b, node, arguments(node)[0]), value], node.name)


def _lowest_like(b: Builder, zero: str) -> str:
    dtype = helper.tensor_dtype_to_np_dtype(b.initializers[zero].data_type)
    return b.shared(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min, dtype)


def _pads(b: Builder, node: fx.Node, widths: Sequence[int]) -> str:
    """torch lists (before, after) from the last dimension on; ONNX all the befores, then all the afters."""
    rank = len(static_shape(node))
    before, after = [0] * rank, [0] * rank
    for index in range(len(widths) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = widths[2 * index : 2 * index + 2]
    return b.shared(before + after, np.int64)


def repeat_pixels(b: Builder, node: fx.Node, x: str, zero: str) -> str:
    sizes, larger = static_shape(source_of(node))[2:], static_shape(node)[2:]
    if any(after % before for before, after in zip(sizes, larger, strict=True)):
        raise unsupported(node, f"{sizes} to {larger} repeats some pixels more often than others")
    options = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    return b.node("Resize", [x, "", _scales(b, node)], node.name, **options)


def _scales(b: Builder, node: fx.Node) -> str:
    before, after = static_shape(source_of(node))[2:], static_shape(node)[2:]
    return b.shared([1, 1, *(new / old for old, new in zip(before, after, strict=True))], np.float32)


MOVES: dict[Any, Callable[[Builder, fx.Node, str, str], str]] = {
    aten.max_pool2d.default: max_pool,
    aten.reshape.default: reshape,
    aten.flatten.using_ints: reshape,
    aten.squeeze.dim: reshape,
    aten.squeeze.dims: reshape,
    aten.unsqueeze.default: reshape,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.slice.Tensor: slice_,
    aten.select.int: select,
    aten.roll.default: roll,
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
    aten.upsample_nearest2d.vec: repeat_pixels,
}


# --- operators that compute -----------------------------------------------------------------------


def unary(kind: str, **attributes: Any) -> Operator:
    def emit(t: Tensors, node: fx.Node) -> str:
        return t.builder.node(kind, [t.value(node.args[0])], node.name, **attributes)

    return emit


def binary(kind: str) -> Operator:
    def emit(t: Tensors, node: fx.Node) -> str:
        if node.kwargs.get("alpha", 1) != 1:
            raise unsupported(node, "alpha is not 1")
        return t.builder.node(kind, t.operands(node.args[:2]), node.name)

    return emit


def clip(t: Tensors, node: fx.Node) -> str:
    defaults = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, None)
    low, high = arguments(node, *defaults)
    bounds = [t.builder.shared(bound, np.float32) if bound is not None else "" for bound in (low, high)]
    return t.builder.node("Clip", [t.value(node.args[0]), *bounds], node.name)


def clamp_min(t: Tensors, node: fx.Node) -> str:
    return t.builder.node("Max", [t.value(a) for a in node.args[:2]], node.name)


def vector_norm(t: Tensors, node: fx.Node) -> str:
    order, axes, keep = arguments(node, 2, None, False)[:3]
    if order != 2 or axes is None:
        raise unsupported(node, "only the Euclidean norm along given axes is")
    return reduce(t.builder, "ReduceL2", t.value(node.args[0]), axes, keep, node.name)


def reduce(b: Builder, kind: str, x: str, axes: Sequence[int], keep: bool, name: str) -> str:
    """A reduction; its axes were an attribute before opset 18 (13 for ReduceSum)."""
    if b.opset < (13 if kind == "ReduceSum" else 18):
        return b.node(kind, [x], name, axes=list(axes), keepdims=int(keep))
    return b.node(kind, [x, b.shared(axes, np.int64)], name, keepdims=int(keep))


def silu(t: Tensors, node: fx.Node) -> str:
    x = t.value(node.args[0])
    return t.builder.node("Mul", [x, t.builder.node("Sigmoid", [x], f"{node.name}.sigmoid")], node.name)


def gelu(t: Tensors, node: fx.Node) -> str:
    b, x, approximate = t.builder, t.value(node.args[0]), node.kwargs.get("approximate", "none")
    if b.opset >= 20:
        return b.node("Gelu", [x], node.name, approximate=approximate)

    def times(value: str, factor: float, part: str) -> str:
        return b.node("Mul", [value, b.shared(factor, np.float32)], f"{node.name}.{part}")

    if approximate == "tanh":  # x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
        square = b.node("Mul", [x, x], f"{node.name}.square")
        slope = b.node(
            "Add", [times(square, 0.044715, "cubic"), b.shared(1, np.float32)], f"{node.name}.slope"
        )
        inner = times(b.node("Mul", [x, slope], f"{node.name}.inner"), sqrt(2 / pi), "scaled")
        bent = b.node("Tanh", [inner], f"{node.name}.tanh")
    else:  # x/2 · (1 + erf(x/√2))
        bent = b.node("Erf", [times(x, sqrt(0.5), "scaled")], f"{node.name}.erf")
    gate = b.node("Add", [bent, b.shared(1, np.float32)], f"{node.name}.gate")
    return b.node("Mul", [times(x, 0.5, "half"), gate], node.name)


def cat(t: Tensors, node: fx.Node) -> str:
    (axis,) = arguments(node, 0)
    tensors: Any = node.args[0]
    return t.builder.node("Concat", [t.value(a) for a in tensors], node.name, axis=axis)


def mean(t: Tensors, node: fx.Node) -> str:
    source = source_of(node)
    axes, keep = arguments(node, None, False)[:2]
    rank = len(static_shape(source))
    axes = sorted(axis % rank for axis in axes)
    x = t.value(source)
    if rank == 4 and axes == [2, 3]:  # ReduceMean has no integer kernel, GlobalAveragePool has
        pooled = t.builder.node("GlobalAveragePool", [x], node.name if keep else f"{node.name}.pool")
        return pooled if keep else flatten(t.builder, pooled, node)
    return reduce(t.builder, "ReduceMean", x, axes, keep, node.name)


def pad_with_values(t: Tensors, node: fx.Node) -> str:
    """Padding with anything but zeros computes: the values are not the tensor's own codes."""
    if node.target is aten.constant_pad_nd.default:
        widths, value = arguments(node, None, 0)
        mode = "constant"
    else:
        widths, mode, value = arguments(node, None, "constant", None)
    if mode == "circular" and t.builder.opset < 19:
        return wrap(t.builder, node, t.value(node.args[0]), widths)
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    inputs = [t.value(node.args[0]), _pads(t.builder, node, widths)]
    if mode == "constant":
        inputs.append(t.builder.shared(value or 0, np.float32))
    return t.builder.node("Pad", inputs, node.name, mode=kinds[mode])


def wrap(b: Builder, node: fx.Node, x: str, widths: Sequence[int]) -> str:
    """Circular padding out of slices: the end goes before the beginning, the beginning behind the end."""
    rank = len(static_shape(node))
    for index in range(len(widths) // 2):
        axis, label = rank - 1 - index, f"{node.name}.axis{rank - 1 - index}"
        before, after = widths[2 * index : 2 * index + 2]
        if min(before, after) < 0:  # crops, and what is left goes around
            x = _slice(b, x, max(0, -before), min(after, 0) or _END, axis, f"{label}.crop")
        end = [_slice(b, x, -before, _END, axis, f"{label}.end")] if before > 0 else []
        beginning = [_slice(b, x, 0, after, axis, f"{label}.beginning")] if after > 0 else []
        if end or beginning:
            x = b.node("Concat", [*end, x, *beginning], label, axis=axis)
    return x


def _slice(b: Builder, x: str, first: int, end: int, axis: int, name: str) -> str:
    return b.node("Slice", [x, *(b.shared([value], np.int64) for value in (first, end, axis))], name)


def flatten(b: Builder, x: str, node: fx.Node) -> str:
    return b.node("Reshape", [x, b.shared(static_shape(node), np.int64)], node.name)


def average_pool(t: Tensors, node: fx.Node) -> str:
    kernel, stride, padding, ceil, count_pad, divisor = arguments(node, None, [], 0, False, True, None)
    if divisor is not None:
        raise unsupported(node, "it has its own divisor")
    kernel = pair(kernel)
    return t.builder.node(
        "AveragePool",
        [t.value(node.args[0])],
        node.name,
        kernel_shape=kernel,
        strides=pair(stride) if stride else kernel,
        pads=pair(padding) * 2,
        ceil_mode=int(ceil),
        count_include_pad=int(count_pad),
    )


def adaptive_average_pool(t: Tensors, node: fx.Node) -> str:
    source = source_of(node)
    height, width = static_shape(source)[-2:]
    rows, columns = pair(node.args[1])
    x = t.value(source)
    if (rows, columns) == (1, 1):
        return t.builder.node("GlobalAveragePool", [x], node.name)
    if (rows, columns) == (height, width):
        return x
    if height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        return t.builder.node("AveragePool", [x], node.name, kernel_shape=kernel, strides=kernel)
    # Bins of unequal size: a matrix on either side, y = R · x · Cᵀ.
    left = t.builder.constant(_pooling_matrix(height, rows), f"{node.name}.rows")
    right = t.builder.constant(_pooling_matrix(width, columns).T, f"{node.name}.columns")
    pooled = t.builder.node("MatMul", [left, x], f"{node.name}.vertical")
    return t.builder.node("MatMul", [pooled, right], node.name)


def _pooling_matrix(size: int, bins: int) -> np.ndarray[Any, Any]:
    matrix = np.zeros((bins, size), np.float32)
    for index in range(bins):
        first, last = index * size // bins, -(-(index + 1) * size // bins)
        matrix[index, first:last] = 1.0 / (last - first)
    return matrix


def softmax(t: Tensors, node: fx.Node) -> str:
    return t.builder.node("Softmax", [t.value(node.args[0])], node.name, axis=node.args[1])


def attention(t: Tensors, node: fx.Node) -> str:
    """softmax(q·kᵀ/√d + mask)·v"""
    q, k, v = (t.value(a) for a in node.args[:3])
    mask = arguments(node, None, None, None, 0.0, False)[2:]
    if mask[1] or mask[2]:
        raise unsupported(node, "attention with dropout or a causal mask")
    source = node.args[1]
    assert isinstance(source, fx.Node)
    rank, depth = len(static_shape(source)), static_shape(source)[-1]
    scale = node.kwargs.get("scale") or depth**-0.5
    order = [*range(rank - 2), rank - 1, rank - 2]
    keys = t.builder.node("Transpose", [k], f"{node.name}.keys", perm=order)
    scores = t.builder.node("MatMul", [q, keys], f"{node.name}.scores")
    scores = t.builder.node("Mul", [scores, t.builder.shared(scale, np.float32)], f"{node.name}.scaled")
    if mask[0] is not None:
        scores = t.builder.node("Add", [scores, t.value(mask[0])], f"{node.name}.masked")
    weights = t.builder.node("Softmax", [scores], f"{node.name}.softmax", axis=-1)
    return t.builder.node("MatMul", [weights, v], node.name)


def expand(t: Tensors, node: fx.Node) -> str:
    """Repeats axes of size 1; one that is repeated for every image reads the batch size from the input."""
    b, shape, source = t.builder, static_shape(node), static_shape(source_of(node))
    source = (1,) * (len(shape) - len(source)) + source
    asked = arguments(node, None)[0]
    sizes = []
    for axis, (now, then) in enumerate(zip(source, shape, strict=True)):
        if then != -1:
            sizes.append(b.shared([then], np.int64))
        elif now == -1:
            sizes.append(b.shared([1], np.int64))  # an axis of Expand that is 1 keeps its size
        elif _is_batch_size(asked[axis]):
            sizes.append(b.node("Shape", [INPUT], f"{node.name}.batch", start=0, end=1))
        else:
            raise unsupported(node, "a size is computed from the batch")
    target = b.node("Concat", sizes, f"{node.name}.shape", axis=0)
    return b.node("Expand", [t.value(node.args[0]), target], node.name)


def _is_batch_size(size: object) -> bool:
    if not isinstance(size, fx.Node) or size.target is not aten.sym_size.int:
        return False
    source, axis = size.args
    return isinstance(source, fx.Node) and source.op == "placeholder" and bool(axis == 0)


def matmul(t: Tensors, node: fx.Node) -> str:
    return t.builder.node("MatMul", [t.value(a) for a in node.args[:2]], node.name)


def einsum(t: Tensors, node: fx.Node) -> str:
    operands = arguments(node)[0]
    values = [t.value(a) for a in operands]
    return t.builder.node("Einsum", values, node.name, equation=str(node.args[0]).replace(" ", ""))


def leaky_relu(t: Tensors, node: fx.Node) -> str:
    (slope,) = arguments(node, 0.01)
    return t.builder.node("LeakyRelu", [t.value(node.args[0])], node.name, alpha=float(slope))


def reduction(kind: str) -> Operator:
    def emit(t: Tensors, node: fx.Node) -> str:
        axes, keep = arguments(node, None, False)[:2]
        axes = axes or list(range(len(static_shape(source_of(node)))))
        return reduce(t.builder, kind, t.value(node.args[0]), axes, keep, node.name)

    return emit


def group_norm(t: Tensors, node: fx.Node) -> str:
    """Each group of channels is an instance of one channel; gain and offset are the channels' own."""
    groups, weight, bias, epsilon = arguments(node, None, None, None, 1e-5)[:4]
    b, shape = t.builder, static_shape(node)
    grouped = b.shared([0, groups, -1], np.int64)
    instances = b.node("Reshape", [t.value(node.args[0]), grouped], f"{node.name}.groups")
    units = [b.shared(np.ones(groups), np.float32), b.shared(np.zeros(groups), np.float32)]
    normed = b.node("InstanceNormalization", [instances, *units], f"{node.name}.normed", epsilon=epsilon)
    result = b.node("Reshape", [normed, b.shared(shape, np.int64)], f"{node.name}.channels")
    per_channel = b.shared([shape[1], *[1] * (len(shape) - 2)], np.int64)
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            value = b.node("Reshape", [t.value(parameter), per_channel], f"{node.name}.{kind}")
            result = b.node(kind, [result, value], node.name)
    return result


def rms_norm(t: Tensors, node: fx.Node) -> str:
    """x / sqrt(mean(x²) + ε) · w over the last dimensions."""
    sizes, weight, epsilon = arguments(node, None, None, None)
    b, x, name = t.builder, t.value(node.args[0]), node.name
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else epsilon
    axes = b.shared(list(range(-len(sizes), 0)), np.int64)
    squares = b.node("ReduceSum", [b.node("Mul", [x, x], f"{name}.squares"), axes], f"{name}.sum", keepdims=1)
    means = b.node("Mul", [squares, b.shared(1 / math.prod(sizes), np.float32)], f"{name}.mean")
    shifted = b.node("Add", [means, b.shared(epsilon, np.float32)], f"{name}.shifted")
    normed = b.node("Div", [x, b.node("Sqrt", [shifted], f"{name}.rms")], name)
    return normed if weight is None else b.node("Mul", [normed, t.value(weight)], f"{name}.scaled")


def interpolate(t: Tensors, node: fx.Node) -> str:
    """Bilinear or bicubic; torch's cubic has the coefficient -0.75, as ONNX's."""
    kind = "linear" if node.target is aten.upsample_bilinear2d.vec else "cubic"
    corners = "align_corners" if node.args[2] else "half_pixel"
    inputs = [t.value(node.args[0]), "", _scales(t.builder, node)]
    return t.builder.node("Resize", inputs, node.name, mode=kind, coordinate_transformation_mode=corners)


COMPUTES: dict[Any, Operator] = {
    aten.relu.default: unary("Relu"),
    aten.hardtanh.default: clip,
    aten.clamp.default: clip,
    aten.clamp_min.default: clamp_min,
    aten.linalg_vector_norm.default: vector_norm,
    aten.hardswish.default: unary("HardSwish"),
    aten.hardsigmoid.default: unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    aten.sigmoid.default: unary("Sigmoid"),
    aten.tanh.default: unary("Tanh"),
    aten.silu.default: silu,
    aten.gelu.default: gelu,
    aten.add.Tensor: binary("Add"),
    aten.sub.Tensor: binary("Sub"),
    aten.mul.Tensor: binary("Mul"),
    aten.div.Tensor: binary("Div"),
    aten.cat.default: cat,
    aten.mean.dim: mean,
    aten.avg_pool2d.default: average_pool,
    aten.adaptive_avg_pool2d.default: adaptive_average_pool,
    aten.softmax.int: softmax,
    aten.scaled_dot_product_attention.default: attention,
    aten.matmul.default: matmul,
    aten.einsum.default: einsum,
    aten.expand.default: expand,
    aten.pad.default: pad_with_values,
    aten.constant_pad_nd.default: pad_with_values,
    aten.leaky_relu.default: leaky_relu,
    aten.neg.default: unary("Neg"),
    aten.pow.Tensor_Scalar: binary("Pow"),
    aten.sum.dim_IntList: reduction("ReduceSum"),
    aten.amax.default: reduction("ReduceMax"),
    aten.group_norm.default: group_norm,
    aten.rms_norm.default: rms_norm,
    aten.upsample_bilinear2d.vec: interpolate,
    aten.upsample_bicubic2d.vec: interpolate,
}


def check_operators(graph: fx.GraphModule) -> None:
    """Raises ArchitectureError (`unsupported_operator`) for operators that have no place in an ONNX file.

    Asked before a job begins, so that a network that cannot be exported is not trained first.
    """
    known = COMPUTES.keys() | MOVES.keys() | set(SPLITS)
    unknown = {
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_function"
        and node.target not in known
        and (shape_of(node) is not None or any(map(_is_getitem, node.users)))
        and not _is_getitem(node)
    }
    if unknown:
        raise ArchitectureError(
            f"The exporter does not know these operators of the network: {', '.join(sorted(unknown))}.",
            code="unsupported_operator",
            field="architecture",
        )


def _is_getitem(node: fx.Node) -> bool:
    """Takes one of the tensors that an operator gives."""
    return getattr(node.target, "__name__", "") == "getitem"
