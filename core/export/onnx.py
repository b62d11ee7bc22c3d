"""Writes a student (or a float network) as an ONNX model for stock ONNX Runtime.

The fx graph is walked once. Every value is held as floats, as integer codes with their grid, or
both; layers read `DequantizeLinear(codes)`, results pass `QuantizeLinear` (and `Clip` below 8
bits): the pattern that ONNX Runtime fuses into QLinearConv, QGemm, QLinearAdd and their kin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, fx, nn

from core.errors import ArchitectureError, ExportError
from core.export.builder import INPUT, Builder, Function
from core.export.containers import emit_contained
from core.export.integer import raised
from core.export.operators import COMPUTES, MOVES, arguments, source_of, static_shape, unsupported
from core.export.packing import emit_weight
from core.export.profiles import FORMATS, Format
from core.fake_quant.affine import Grid
from core.fake_quant.insert import Student, absorbed
from core.fake_quant.modules import LARGEST_BIAS, ActivationQuantizer, QuantConv2d, QuantLinear
from core.fake_quant.placement import SPLITS, is_passthrough
from core.networks.graph import BatchNorm, module_of, shape_of
from core.spec import PROFILES

aten = torch.ops.aten

_CONV_DEFAULTS = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "pads": [0, 0, 0, 0]}

# int32 steps of input scale × weight scale, which is what integer kernels add.
_BIAS = Function(
    "Bias",
    ("steps", "scale", "input_scale"),
    ("bias",),
    (
        helper.make_node("Mul", ["scale", "input_scale"], ["step"]),
        helper.make_node("DequantizeLinear", ["steps", "step"], ["bias"], axis=0),
    ),
)


@dataclass(slots=True)
class Value:
    """A tensor of the ONNX graph: `floats` and/or `codes` (uint8 or int8), on `grid` where there is one.

    `view` is the shape that the floats still have to be brought to: matrix products of tensors of
    more than two dimensions are done on flattened ones, and reshaping codes is cheaper. `factor`
    is what the floats have been multiplied by; only a quantizer reads such floats.
    """

    floats: str | None = None
    codes: str | None = None
    grid: Grid | None = None
    view: tuple[int, ...] | None = None
    factor: float = 1.0
    parts: list[Value] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exported:
    """`codes` maps each activation quantizer (fx node name) to the 8-bit tensor that holds its result,
    `raised_by` to how much larger than the student's its codes are (see integer.raised);
    `layer_bytes` is what each layer's initializers take in the file."""

    model: onnx.ModelProto
    codes: dict[str, str]
    raised_by: dict[str, int]
    layer_bytes: dict[str, int]
    clamped_biases: int


def export_student(
    student: Student,
    input_shape: tuple[int, ...],
    classes: int,
    metadata: dict[str, str],
    profile: str = "packed",
) -> Exported:
    """The student, batch normalizations folded, every range calibrated. Raises ExportError.

    `profile` is one of `core.spec.PROFILES`, on whose grids the student was built.
    """
    assert student.grids == PROFILES[profile].grids
    student = student.folded()
    for name, quantizer in student.activation_quantizers().items():
        if not bool(quantizer.calibrated):
            raise ExportError(f"The activation range of {name} was never found.", code="not_calibrated")
    return _Emitter(student.graph, FORMATS[profile]).run(input_shape, classes, metadata)


def export_float(
    graph: fx.GraphModule,
    input_shape: tuple[int, ...],
    classes: int,
    metadata: dict[str, str],
    profile: str = "packed",
) -> onnx.ModelProto:
    """The traced network in float32, in the profile's opset: what latency and size are compared with."""
    return _Emitter(graph, FORMATS[profile]).run(input_shape, classes, metadata).model


class _Emitter:
    def __init__(self, graph: fx.GraphModule, format: Format) -> None:
        self.graph = graph.cpu().eval()
        self.format = format
        self.builder = Builder(format.opset, format.ir_version)
        self.values: dict[fx.Node, Value] = {}
        self.codes: dict[str, str] = {}
        self.raised_by: dict[str, int] = {}
        self.numbers: dict[float, str] = {}
        self.written: dict[str, list[str]] = {}
        self.clamped = 0

    def run(self, input_shape: tuple[int, ...], classes: int, metadata: dict[str, str]) -> Exported:
        logits = ""
        with torch.no_grad():
            for node in self.graph.graph.nodes:
                if node.op == "output":
                    logits = self.value(node.args[0])
                elif shape_of(node) is not None or node.target in SPLITS:
                    self.values[node] = self.emit(node)
        model, renamed = self.builder.model(input_shape, classes, logits, metadata)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:  # our own mistake, never the user's
            raise ExportError(f"The exported file is not valid ONNX: {error}") from error
        codes = {node: renamed[name] for node, name in self.codes.items()}
        return Exported(model, codes, self.raised_by, self.layer_bytes(), self.clamped)

    def layer_bytes(self) -> dict[str, int]:
        """Of each layer, the size of the initializers that stand under its name."""
        sizes = {name: tensor.ByteSize() for name, tensor in self.builder.initializers.items()}
        return {
            layer: sum(size for name, size in sizes.items() if name.startswith(f"{layer}."))
            for layer in self.written
        }

    # --- values ---

    def value(self, argument: Any) -> str:
        """The argument's values as float32: see operators.Tensors."""
        if not isinstance(argument, fx.Node):
            return self.builder.shared(argument, np.float32)
        value = self.values[argument]
        if value.floats is None:
            # All readers share it; ONNX Runtime gives each fused operator a copy of its own.
            assert value.codes and value.grid
            value.floats = self.dequantize(value.codes, value.grid, argument.name)
        if value.view is not None:
            shape = self.builder.shared(value.view, np.int64)
            value.floats, value.view = (
                self.builder.node("Reshape", [value.floats, shape], argument.name),
                None,
            )
        return value.floats

    def parameters_of(self, grid: Grid, factor: float = 1.0) -> list[str]:
        return [
            self.builder.shared(float(grid.scale) * factor, np.float32),
            self.builder.shared(int(grid.zero_point), _code_type(grid)),
        ]

    def quantize(self, floats: str, grid: Grid, name: str, factor: float = 1.0) -> str:
        return self.builder.node("QuantizeLinear", [floats, *self.parameters_of(grid, factor)], name)

    def dequantize(self, codes: str, grid: Grid, name: str) -> str:
        return self.builder.node("DequantizeLinear", [codes, *self.parameters_of(grid)], f"{name}.float")

    # --- nodes ---

    def emit(self, node: fx.Node) -> Value:
        if node.op == "placeholder":
            return Value(floats=INPUT)
        if node.op == "get_attr":
            value: Tensor = attrgetter(str(node.target))(self.graph)
            return Value(floats=self.builder.constant(value.detach().numpy(), node.name))
        module = module_of(self.graph, node)
        if module is not None:
            return self.emit_module(node, module)
        if node.target in SPLITS:
            return self.emit_split(node)
        if getattr(node.target, "__name__", "") == "getitem":
            index = node.args[1]
            assert isinstance(index, int)
            return self.values[source_of(node)].parts[index]
        if is_passthrough(self.graph, node):
            return self.emit_move(node)
        if absorbed(self.graph, node):
            if node.target is not aten.hardsigmoid.default:
                return self.values[source_of(node)]
            if self.format.integer_kernels:
                return self.emit_saturating_gate(node)
        if node.target in COMPUTES:
            return Value(floats=COMPUTES[node.target](self, node))
        raise ArchitectureError(
            f"The network uses {node.target}, which the exporter does not know.",
            code="unsupported_operator",
            field="architecture",
        )

    def emit_module(self, node: fx.Node, module: nn.Module) -> Value:
        source = source_of(node)
        if isinstance(module, ActivationQuantizer):
            return self.emit_quantizer(node, source, module)
        if isinstance(module, nn.Conv2d):
            return Value(floats=self.emit_convolution(node, source, module))
        if isinstance(module, nn.Linear):
            return self.emit_linear(node, source, module)
        name, b = str(node.target), self.builder
        if isinstance(module, nn.LayerNorm):
            inputs = [self.value(source), *self.constants(module, name, ["weight", "bias"])]
            return Value(floats=b.node("LayerNormalization", inputs, node.name, epsilon=module.eps))
        if isinstance(module, BatchNorm):
            names = ["weight", "bias", "running_mean", "running_var"]
            inputs = [self.value(source), *self.constants(module, name, names)]
            return Value(floats=b.node("BatchNormalization", inputs, node.name, epsilon=module.eps))
        raise unsupported(node, f"no exporter for {type(module).__name__}")

    def constants(self, module: nn.Module, name: str, fields: list[str]) -> list[str]:
        found = [(f, getattr(module, f)) for f in fields]
        return [self.builder.constant(t.detach().numpy(), f"{name}.{f}") for f, t in found if t is not None]

    def emit_quantizer(self, node: fx.Node, source: fx.Node, quantizer: ActivationQuantizer) -> Value:
        grid, b = quantizer.grid(), self.builder
        value = self.values[source]
        late = value.view is not None and self.format.integer_kernels
        floats, view = (value.floats, value.view) if late else (self.value(source), None)
        name = f"{str(node.target).rpartition('.')[2]}.codes"
        assert floats is not None
        high = None
        if value.codes is not None and value.grid is not None and self.format.integer_kernels:
            # From grid to grid: QLinearAdd does it in one pass over integers.
            floats = b.node("Add", [floats, self.number(0.0)], f"{name}.same")
            high = raised(grid, value.grid)
        self.raised_by[node.name] = 255 - grid.high if high else 0
        grid = high or grid
        codes = self.quantize(floats, grid, name, value.factor)
        if quantizer.bits < 8 and not high:
            bounds = [b.shared(bound, _code_type(grid)) for bound in (grid.low, grid.high)]
            codes = b.node("Clip", [codes, *bounds], f"{name}.clip")
        if view is not None:
            codes = b.node("Reshape", [codes, b.shared(view, np.int64)], f"{name}.view")
        self.codes[node.name] = codes
        return Value(codes=codes, grid=grid)

    def operands(self, arguments: Sequence[Any]) -> list[str]:
        """See operators.Tensors."""
        nodes = [a for a in arguments if isinstance(a, fx.Node)]
        integer = all(self.values[node].codes is not None for node in nodes)
        integer = integer and not self.format.float_constants
        return [
            self.number(float(a)) if integer and isinstance(a, (int, float)) else self.value(a)
            for a in arguments
        ]

    def number(self, value: float) -> str:
        """A constant that integer kernels can read: code 1 or 0, zero-point 0 or 2 (where it is negative).

        Its code is an initializer of its own: ONNX Runtime reshapes what a broadcast reads, and a
        zero-point that shared it would no longer be constant, which makes convolutions a third slower.
        """
        b = self.builder
        if value not in self.numbers:
            code = b.constant(np.array(1 if value else 0, np.uint8), f"number.{value}")
            zero_point = b.shared(2 if value < 0 else 0, np.uint8)
            scale = b.shared(abs(value) or 1.0, np.float32)
            self.numbers[value] = b.node(
                "DequantizeLinear", [code, scale, zero_point], f"number.{value}.float"
            )
        return self.numbers[value]

    def emit_saturating_gate(self, node: fx.Node) -> Value:
        """hardsigmoid(x) = clip(x + 3, 0, 6) / 6, where the quantizer behind it clips by saturation."""
        x = self.value(source_of(node))
        return Value(floats=self.builder.node("Add", [x, self.number(3.0)], node.name), factor=6.0)

    def emit_move(self, node: fx.Node) -> Value:
        source = source_of(node)
        value, move = self.values[source], MOVES[node.target]
        if value.codes is not None and value.grid is not None and self.format.integer_kernels:
            zero = self.builder.shared(int(value.grid.zero_point), _code_type(value.grid))
            return Value(codes=move(self.builder, node, value.codes, zero), grid=value.grid)
        zero = self.builder.shared(0, np.float32)
        return self.moved(move(self.builder, node, self.value(source), zero), value.grid, node.name)

    def moved(self, floats: str, grid: Grid | None, name: str) -> Value:
        """What only moved is still on its grid; tools that ask for it are told so by another pair."""
        if grid is None or self.format.moves == "floats":
            return Value(floats=floats, grid=grid)
        return Value(codes=self.quantize(floats, grid, f"{name}.codes"), grid=grid)

    def emit_split(self, node: fx.Node) -> Value:
        source = source_of(node)
        sizes, axis = self.split_sizes(node, source)
        value = self.values[source]
        codes = value.codes if self.format.integer_kernels else None
        inputs = [codes or self.value(source), self.builder.shared(sizes, np.int64)]
        names = self.builder.split(inputs, node.name, len(sizes), axis=axis)
        if codes is not None:
            return Value(parts=[Value(codes=name, grid=value.grid) for name in names])
        return Value(parts=[self.moved(name, value.grid, name) for name in names])

    def split_sizes(self, node: fx.Node, source: fx.Node) -> tuple[list[int], int]:
        asked, axis = arguments(node, None, 0)
        if isinstance(asked, (list, tuple)):
            return list(asked), axis
        total = static_shape(source)[axis]
        size = -(-total // asked) if node.target is aten.chunk.default else asked
        whole = [size] * (total // size)
        return whole + ([total % size] if total % size else []), axis

    # --- weighted layers ---

    def emit_convolution(self, node: fx.Node, source: fx.Node, layer: nn.Conv2d) -> str:
        x = self.value(source)
        weight, bias = self.emit_parameters(str(node.target), source, layer)
        attributes = {
            "strides": list(layer.stride),
            "dilations": list(layer.dilation),
            "group": layer.groups,
            "pads": _pads(layer),
        }
        needed = {name: value for name, value in attributes.items() if value != _CONV_DEFAULTS[name]}
        needed["kernel_shape"] = list(layer.kernel_size)
        if not self.adds_bias_apart(layer):
            return self.builder.node("Conv", [x, weight, *bias], node.name, **needed)
        zeros = np.zeros((layer.out_channels, 1, 1))
        sums = self.builder.node("Conv", [x, weight], f"{node.name}.sums", **needed)
        added = bias or [self.builder.shared(zeros, np.float32)]
        return self.builder.node("Add", [sums, *added], node.name)

    def adds_bias_apart(self, layer: nn.Module) -> bool:
        """INT2 convolutions: ONNX Runtime 1.31 takes one between DequantizeLinear and QuantizeLinear for
        a QLinearConv, which knows no INT2, and refuses the file."""
        return (
            isinstance(layer, QuantConv2d)
            and self.format.containers is not None
            and self.format.containers[layer.bits] == 2
        )

    def emit_linear(self, node: fx.Node, source: fx.Node, layer: nn.Linear) -> Value:
        value, shape, b = self.values[source], static_shape(source), self.builder
        flat = b.shared([-1, shape[-1]], np.int64)
        if len(shape) == 2:
            x = self.value(source)
        elif value.codes is not None and value.grid is not None and self.format.integer_kernels:
            codes = b.node("Reshape", [value.codes, flat], f"{node.name}.rows")
            x = self.dequantize(codes, value.grid, f"{node.name}.rows")
        else:
            x = b.node("Reshape", [self.value(source), flat], f"{node.name}.rows")
        weight, bias = self.emit_parameters(str(node.target), source, layer)
        result = b.node("Gemm", [x, weight, *bias], node.name, transB=1)
        return Value(floats=result, view=None if len(shape) == 2 else static_shape(node))

    def emit_parameters(
        self, name: str, source: fx.Node, layer: nn.Conv2d | nn.Linear
    ) -> tuple[str, list[str]]:
        """The weight's float tensor and, where there is one, the bias's."""
        b = self.builder
        if name not in self.written:  # a layer may run twice
            if isinstance(layer, QuantConv2d | QuantLinear):
                self.written[name] = self.emit_low_bit_weight(name, layer)
            else:
                self.written[name] = self.constants(layer, name, ["weight", "bias"])
        if not isinstance(layer, QuantConv2d | QuantLinear):
            return self.written[name][0], self.written[name][1:]
        (weight, scale), bias = self.written[name], layer.low_bit_bias()
        if bias is None:
            return weight, []
        step, read = layer.grid().scale, self.values[source].grid
        if self.adds_bias_apart(layer):
            bias = bias.view(-1, 1, 1)
        # A layer that reads a float tensor stays a float layer, its bias too.
        if read is None or self.format.float_constants:
            return weight, [b.constant(bias.numpy(), f"{name}.bias")]
        return weight, [self.emit_bias(name, bias, step, read.scale, scale)]

    def emit_low_bit_weight(self, name: str, layer: QuantConv2d | QuantLinear) -> list[str]:
        """The weight's float tensor and its scales."""
        grid, b = layer.grid(), self.builder
        codes: NDArray[np.int32] = grid.codes(layer.weight).numpy()
        scale = b.constant(grid.scale.numpy(), f"{name}.scale")
        if self.format.containers is None:
            # Gemm becomes QGemm only with an explicit zero-point.
            zeros = [b.shared(np.zeros(len(codes)), np.int8)] if isinstance(layer, QuantLinear) else []
            integers, floats = emit_weight(b, codes, grid, layer.bits, [scale, *zeros], f"{name}.weight")
        else:
            width = self.format.containers[layer.bits]
            integers, floats = emit_contained(b, codes, width, scale, f"{name}.weight")
        b.keep(integers)  # by this name the layer is found in the graph that ONNX Runtime makes
        return [floats, scale]

    def emit_bias(
        self, name: str, bias: Tensor, weight_scale: Tensor, input_scale: Tensor, scale: str
    ) -> str:
        """A bias [O] or [O, 1, 1] in int32 steps of input scale × weight scale, as float tensor."""
        b, step = self.builder, input_scale * weight_scale
        steps = torch.round(bias.double() / step.double().view(-1, *[1] * (bias.dim() - 1)))
        self.clamped += int((steps.abs() > LARGEST_BIAS).sum())
        integers = b.constant(
            steps.clamp(-LARGEST_BIAS, LARGEST_BIAS).numpy().astype(np.int32), f"{name}.bias"
        )
        if self.format.containers is None:
            factor = b.shared(float(input_scale), np.float32)
            return b.call(_BIAS, [integers, scale, factor], f"{name}.bias.float")[0]
        steps_name = b.constant(step.numpy(), f"{name}.bias.scale")
        return b.node("DequantizeLinear", [integers, steps_name], f"{name}.bias.float", axis=0)


def _code_type(grid: Grid) -> type[np.integer[Any]]:
    return np.int8 if grid.low < 0 else np.uint8


def _pads(layer: nn.Conv2d) -> list[int]:
    """Zeros before each dimension, then after each. Written out: ONNX's SAME_UPPER refuses dilation."""
    if not isinstance(layer.padding, str):
        return [int(size) for size in layer.padding] * 2
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]
