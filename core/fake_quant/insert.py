"""The student: the teacher's graph with its layers on low-bit weights and quantizers on its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, fx, nn

from core.fake_quant.lowering import lower
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d, QuantLinear, listen
from core.fake_quant.observers import MinMax, ObserverFactory
from core.fake_quant.placement import (
    LayerPlacement,
    Placement,
    ceiling_of,
    is_passthrough,
    place,
    source_of,
)
from core.networks.fold_bn import fold_bn, fold_into
from core.networks.graph import BatchNorm, module_of, shape_of, with_outputs
from core.spec import ANY_GRID, BitSpec, GridStyle

aten = torch.ops.aten

QUANTIZERS = "quantizers"


class Student(nn.Module):
    """A quantized network. `graph` runs it; `placement` says what was placed where, `grids` of which kind."""

    def __init__(self, graph: fx.GraphModule, placement: Placement, bits: BitSpec, grids: GridStyle) -> None:
        super().__init__()
        self.graph = graph
        self.placement = placement
        self.bits = bits
        self.grids = grids

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.graph(x_NCHW)
        return logits

    def with_outputs(self, names: Sequence[str]) -> fx.GraphModule:
        """Shares this student's modules; returns (logits, [values]), see graph.with_outputs.

        The values are those before quantization; names are those of the teacher's graph.
        """
        return with_outputs(self.graph, [self._alias(name) for name in names])

    def _alias(self, name: str) -> str:
        """A batch normalization that was folded away stands for its layer."""
        names = {node.name for node in self.graph.graph.nodes}
        if name in names:
            return name
        folded: dict[str, str] = self.graph.meta["folded"]
        return folded.get(name, name)

    def activation_quantizers(self) -> dict[str, ActivationQuantizer]:
        """By the name of the node whose value they round."""
        holder = self.graph.get_submodule(QUANTIZERS)
        return {name: m for name, m in holder.named_children() if isinstance(m, ActivationQuantizer)}

    def layers(self) -> dict[str, QuantConv2d | QuantLinear]:
        """The weighted layers by name, in the order they run."""
        found = {p.name: self.graph.get_submodule(p.name) for p in self.placement.layers}
        return {name: m for name, m in found.items() if isinstance(m, QuantConv2d | QuantLinear)}

    @contextmanager
    def observing(self, observer: ObserverFactory = MinMax) -> Iterator[None]:
        """Every forward pass inside sets the activation ranges; afterwards they are frozen.

        Each quantizer rounds with the range it has just found, so later layers see rounded inputs.
        """
        quantizers = self.activation_quantizers().values()
        for quantizer in quantizers:
            quantizer.observer = observer()
        try:
            yield
        finally:
            for quantizer in quantizers:
                quantizer.observer = None

    def learn_ranges(self, learn: bool) -> list[nn.Parameter]:
        """Lets the activation scales be trained, or freezes them; returns them."""
        scales = [quantizer.scale for quantizer in self.activation_quantizers().values()]
        for scale in scales:
            scale.requires_grad_(learn)
        return scales

    def constrain(self) -> None:
        """To be called after an optimizer step on the scales."""
        for quantizer in self.activation_quantizers().values():
            quantizer.constrain()

    def folded(self) -> Student:
        """The student as it is exported: batch normalizations that were kept for training folded in.

        A row's grid scales with its weights, so folding moves no weight by more than a rounding tie.
        """
        student = deepcopy(self).eval()
        graph = student.graph
        for node in list(graph.graph.nodes):
            norm = module_of(graph, node)
            if not isinstance(norm, BatchNorm) or node.name not in graph.meta["foldable"]:
                continue
            before = node.args[0]
            layer = module_of(graph, before)
            assert isinstance(layer, QuantConv2d | QuantLinear)
            fold_into(layer, norm)
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        graph.meta["foldable"] = frozenset()
        graph.delete_all_unused_submodules()
        graph.recompile()
        return student


def build_student(
    teacher: fx.GraphModule, bits: BitSpec, grids: GridStyle = ANY_GRID, *, fold: bool = True
) -> Student:
    """Copies the traced teacher into a student whose activation ranges are yet to be found.

    `grids` are those of the profile that it will be exported in (`ExportConfig.grids`). `fold=False`
    keeps foldable batch normalizations as modules (the originals train them) and `Student.folded()`
    folds them later. Raises SpecError when an override matches no layer.
    """
    gates = not grids.float_epilogues
    shape = lower(fold_bn(teacher), gates=gates)  # placement is decided on the graph that will run
    placement = place(shape, bits, float_epilogues=grids.float_epilogues)
    left = {node.name for node in shape.graph.nodes}
    norms = [n for n in teacher.graph.nodes if isinstance(module_of(teacher, n), BatchNorm)]
    folded = {node.name: node.args[0].name for node in norms if node.name not in left}
    graph = shape if fold else lower(deepcopy(teacher), folded.keys(), gates=gates)
    graph.meta["folded"] = folded if fold else {}
    graph.meta["foldable"] = frozenset() if fold else frozenset(folded)
    graph.requires_grad_(True)  # a frozen teacher's copy is there to be trained
    for layer in placement.layers:
        _replace_layer(graph, layer, bits.bias, grids)
    graph.add_module(QUANTIZERS, nn.Module())
    nodes = {node.name: node for node in graph.graph.nodes}
    if not fold:  # a value that folding attributes to the convolution is its batch normalization's
        nodes.update({layer: nodes[norm] for norm, layer in folded.items()})
    for name, width in placement.stored.items():
        _quantize_value(graph, nodes[name], name, width, placement, grids.signed_activations)
    _tell_layers_what_they_read(graph)
    graph.graph.lint()
    graph.recompile()
    return Student(graph, placement, bits, grids)


def _replace_layer(graph: fx.GraphModule, placed: LayerPlacement, bias_bits: int, grids: GridStyle) -> None:
    parent, _, leaf = placed.name.rpartition(".")
    layer, symmetric = graph.get_submodule(placed.name), grids.symmetric_weights
    new: QuantConv2d | QuantLinear
    if isinstance(layer, nn.Conv2d):
        new = QuantConv2d.of(layer, placed.weight_bits, bias_bits, symmetric=symmetric)
    else:
        assert isinstance(layer, nn.Linear)
        new = QuantLinear.of(layer, placed.weight_bits, bias_bits, symmetric=symmetric)
    setattr(graph.get_submodule(parent), leaf, new)


def _quantize_value(
    graph: fx.GraphModule, node: fx.Node, name: str, width: int, placement: Placement, signed: bool
) -> None:
    """Puts the storing quantizer behind the node, and narrower ones before the readers that ask for less."""
    readers = [user for user in node.users if user.op != "output" and shape_of_value(graph, user)]
    ceiling = placement.ceilings.get(name)
    stored = _insert(graph, node, name, ActivationQuantizer(width, ceiling, signed=signed))
    for reader in readers:
        reader.replace_input_with(node, stored)
    _narrow(graph, stored, name, width, placement)


def _narrow(graph: fx.GraphModule, value: fx.Node, name: str, width: int, placement: Placement) -> None:
    stored = graph.get_submodule(f"{QUANTIZERS}.{name}")
    assert isinstance(stored, ActivationQuantizer)
    narrow: dict[int, fx.Node] = {}
    for reader in list(value.users):
        if is_passthrough(graph, reader):
            _narrow(graph, reader, name, width, placement)
            continue
        asked = placement.read.get((name, reader.name), width)
        if asked >= width:
            continue
        if asked not in narrow:
            label = name if value.target == f"{QUANTIZERS}.{name}" else f"{name}_{value.name}"
            quantizer = ActivationQuantizer(asked, stored.ceiling, signed=stored.signed)
            narrow[asked] = _insert(graph, value, f"{label}_{asked}bit", quantizer)
        reader.replace_input_with(value, narrow[asked])


def _tell_layers_what_they_read(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        layer = module_of(graph, node)
        if not isinstance(layer, QuantConv2d | QuantLinear):
            continue
        quantizer = module_of(graph, source_of(graph, node))
        listen(layer, quantizer if isinstance(quantizer, ActivationQuantizer) else None)


def _insert(graph: fx.GraphModule, node: fx.Node, name: str, quantizer: ActivationQuantizer) -> fx.Node:
    graph.get_submodule(QUANTIZERS).add_module(name, quantizer)
    with graph.graph.inserting_after(node):
        new = graph.graph.call_module(f"{QUANTIZERS}.{name}", (node,))
    new.meta["shape"] = node.meta.get("shape")
    return new


def shape_of_value(graph: fx.GraphModule, reader: fx.Node) -> bool:
    """Whether the reader reads the values, not only their shape (`sym_size`)."""
    return shape_of(reader) is not None or is_passthrough(graph, reader)


def absorbed(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the quantizer behind the activation clips just as it does: from 0 (and up to 6, or 1)."""
    ceiling = 1.0 if node.target is aten.hardsigmoid.default else ceiling_of(node)
    if ceiling is None or len(node.users) != 1:
        return False
    quantizer = module_of(graph, next(iter(node.users)))
    if not isinstance(quantizer, ActivationQuantizer) or int(quantizer.zero_point) != quantizer.low:
        return False
    return float(quantizer.scale) * quantizer.high <= ceiling * (1 + 1e-6)


def parameters_in_groups(student: Student) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(weights and biases, activation scales) for optimizers that treat them differently."""
    scales = [quantizer.scale for quantizer in student.activation_quantizers().values()]
    known = {id(scale) for scale in scales}
    return [p for p in student.parameters() if id(p) not in known], scales
