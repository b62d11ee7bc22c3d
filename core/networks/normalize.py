"""An exported program in the form that graph.py describes: few operators, one spelling for each.

What the forward pass computes from parameters alone (standardized weights, position tables) becomes a
parameter or a constant; operators that only say in another way what others say are rewritten to those.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from core.errors import ArchitectureError
from core.networks import layers

aten = torch.ops.aten

_BATCH_NORM = aten._native_batch_norm_legit_no_training.default

# Operators that change nothing in evaluation mode.
_IDENTITIES: frozenset[Any] = frozenset(
    {
        aten.clone.default,
        aten.dropout.default,
        aten.alias.default,
        aten.contiguous.default,
        aten.detach.default,
        aten.lift_fresh_copy.default,
    }
)
# These change the type, or nothing when it is the right one already.
_CASTS: frozenset[Any] = frozenset({aten._to_copy.default, aten.type_as.default})
# Checks that torch.export adds; what they say holds for every image.
_CHECKS: frozenset[Any] = frozenset({aten._assert_tensor_metadata.default, aten._assert_scalar.default})

_VIEWS: frozenset[Any] = frozenset({aten.view.default, aten._unsafe_view.default})


class Normalizer:
    """Rewrites an exported program. `names` maps its placeholders to parameters and buffers."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        self.source, self.outputs = program.graph, signature.output_specs
        self.names: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.tensors: dict[str, Any] = {**program.state_dict, **program.constants}
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.mapped: dict[fx.Node, Any] = {}
        self.constants: dict[fx.Node, Any] = {}  # what is the same for every image, and its value
        self.layers: dict[str, str] = {}  # operator, weight and arguments of a layer -> its name
        self.alone: set[str] = set()  # parameters that are read as they are, not by a layer
        self.computed: set[str] = set()  # parameters whose layer holds what was computed from them

    def run(self) -> fx.GraphModule:
        for node in self.source.nodes:
            if self.is_constant(node):
                self.constants[node] = self.evaluate(node)
            else:
                self.mapped[node] = self.visit(node)
        return fx.GraphModule(self.root, self.graph, class_name="TracedNetwork")

    def visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.keep(node, self.graph.placeholder(node.name))
        if node.op == "output":
            return self.graph.output(self.read(self.answer(node.args[0])))
        if node.target in _CHECKS:
            return None
        if node.target in _IDENTITIES:
            return self.read(node.args[0])
        if node.target in _REWRITES and (new := _REWRITES[node.target](self, node)) is not None:
            return new
        # A view needs the memory layout it was traced with; without the clones, and with
        # channels-last inputs, only a reshape is right.
        target = aten.reshape.default if node.target in _VIEWS else node.target
        assert callable(target)
        return self.keep(node, self.graph.call_function(target, self.read(node.args), self.read(node.kwargs)))

    def answer(self, values: Any) -> fx.Node:
        """The one tensor that the network gives; what it writes into its input is no part of that."""
        changed = [spec.target for spec in self.outputs if spec.kind is OutputKind.BUFFER_MUTATION]
        if changed:
            raise _not_traceable(
                f"This network changes its own buffer {changed[0]!r} with every image, so that its answers "
                "may depend on those before; it cannot be quantized."
            )
        given = [
            value
            for value, spec in zip(values, self.outputs, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT
        ]
        if len(given) != 1 or not isinstance(given[0], fx.Node):
            raise _not_traceable(
                "This network does not give one tensor, the logits; only networks that do can be quantized."
            )
        return given[0]

    # --- constants ---

    def is_constant(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return node.name in self.names
        return node.op == "call_function" and all(n in self.constants for n in node.all_input_nodes)

    @torch.no_grad()
    def evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            tensor: Tensor = self.tensors[self.names[node.name]]
            return tensor.detach()
        arguments, keywords = fx.map_arg((node.args, node.kwargs), self.constants.__getitem__)
        return node.target(*arguments, **keywords)  # type: ignore[operator]

    # --- layers ---

    def layer(self, node: fx.Node, make: Callable[..., nn.Module], weight: int = 1) -> fx.Node:
        """Puts a weighted operator back as a module named after its weight."""
        target = self.layer_name(node, make, weight)
        return self.keep(node, self.graph.call_module(target, (self.read(node.args[0]),)))

    def layer_name(self, node: fx.Node, make: Callable[..., nn.Module], weight: int = 1) -> str:
        key = f"{node.target} {node.args[1:]}"
        if key not in self.layers:
            arguments = [self.parameter(a) if isinstance(a, fx.Node) else a for a in node.args[1:]]
            layer = make(*arguments).eval()
            self.layers[key] = self.free_name(node.args[weight])
            self.root_add(self.layers[key], layer)
        return self.layers[key]

    def parameter(self, node: fx.Node) -> Tensor:
        """A parameter, or what the network computes from parameters alone (a bias with zeros put in)."""
        if node not in self.constants:
            raise _not_traceable(
                "A layer of this network computes its weight or bias from the image; it cannot be quantized."
            )
        value: Tensor = self.constants[node]
        return value.clone()

    def free_name(self, weight: Any) -> str:
        """The name of the layer whose weight this is, or is computed from."""
        source, is_computed = weight, weight.name not in self.names
        while source.name not in self.names and source.all_input_nodes:
            source = source.all_input_nodes[0]
        parameter = self.names.get(source.name, f"{source.name}.weight")  # else made by forward itself
        name = parameter.removesuffix(".weight")
        name = name if name != parameter else parameter.replace(".", "_") + "_layer"
        if is_computed:
            self.computed.add(parameter)
        taken = {*self.layers.values()} | ({name} if is_computed and parameter in self.alone else set())
        numbered = (f"{name}_{index}" for index in count(2))
        return next(free for free in chain([name], numbered) if free not in taken)

    # --- nodes ---

    def read(self, argument: Any) -> Any:
        return fx.map_arg(argument, self.read_node)

    def read_node(self, node: fx.Node) -> Any:
        if node not in self.constants:
            return self.mapped[node]
        value = self.constants[node]
        if not isinstance(value, Tensor):
            return value
        name = self.names.get(node.name, "")
        if not name or name in self.computed:
            name = f"constant_{node.name}"
        self.alone.add(name)
        parent, _, leaf = name.rpartition(".")
        holder = self.root_module(parent)
        if not hasattr(holder, leaf):
            holder.register_buffer(leaf, value.clone())
        return self.keep(node, self.graph.get_attr(name))

    def call(self, target: Callable[..., Any], arguments: tuple[Any, ...], shape: tuple[int, ...]) -> fx.Node:
        """A node that the program does not have; `arguments` are nodes of the new graph."""
        new = self.graph.call_function(target, arguments)
        new.meta["shape"] = shape
        return new

    def keep(self, old: fx.Node, new: fx.Node) -> fx.Node:
        value = old.meta.get("val")
        if old.target is _BATCH_NORM and isinstance(value, tuple | list):
            value = value[0]
        if isinstance(value, Tensor):
            new.meta["shape"] = _sizes(value)
        return new

    def root_module(self, path: str) -> nn.Module:
        module = self.root
        for part in path.split(".") if path else []:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        return module

    def root_add(self, path: str, layer: nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        holder = self.root_module(parent)
        before = getattr(holder, leaf, None)  # a parameter of it that was read alone, or a layer inside it
        for name, part in (*before.named_children(), *before.named_buffers(recurse=False)) if before else ():
            if not hasattr(layer, name):
                setattr(layer, name, part)
        holder.add_module(leaf, layer)


# --- rewrites: None where the operator stays as it is ---------------------------------------------


def _convolution(n: Normalizer, node: fx.Node) -> fx.Node:
    return n.layer(node, layers.conv2d)


def _linear(n: Normalizer, node: fx.Node) -> fx.Node:
    return n.layer(node, layers.linear)


def _layer_norm(n: Normalizer, node: fx.Node) -> fx.Node | None:
    return n.layer(node, layers.layer_norm, weight=2) if isinstance(node.args[2], fx.Node) else None


def _batch_norm(n: Normalizer, node: fx.Node) -> fx.Node:
    make = layers.batch_norm if len(_shape(node.args[0])) == 4 else layers.batch_norm_1d
    weight = 1 if isinstance(node.args[1], fx.Node) else 3  # without a gain, the mean gives the name
    return n.layer(node, make, weight)


def _getitem(n: Normalizer, node: fx.Node) -> Any:
    source, index = node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    if source.target is _BATCH_NORM:
        return n.read(source)
    if source.target is aten.unbind.int:
        x, dim = _arguments(source)
        return n.keep(node, n.graph.call_function(aten.select.int, (n.read(x), dim, index)))
    return None


def _unbind(n: Normalizer, node: fx.Node) -> Any:
    """Its readers select from what it reads."""
    return n.read(node.args[0])


def _new_zeros(n: Normalizer, node: fx.Node) -> fx.Node:
    """It takes only its type from the tensor."""
    return n.keep(node, n.graph.call_function(aten.zeros.default, (node.args[1],)))


def _relu6(n: Normalizer, node: fx.Node) -> fx.Node:
    return n.keep(node, n.graph.call_function(aten.hardtanh.default, (n.read(node.args[0]), 0.0, 6.0)))


def _slice(n: Normalizer, node: fx.Node) -> Any:
    """`x[:]` along one dimension: torch writes one for every leading `:`."""
    x, dim, start, end, step = _arguments(node)
    return n.read(x) if _is_whole(_shape(x)[dim], start, end, step) else None


def _cast(n: Normalizer, node: fx.Node) -> Any:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    same = node.meta["val"].dtype == source.meta["val"].dtype
    return n.read(source) if same else None


def _copy(n: Normalizer, node: fx.Node) -> Any:
    """What an assignment to a view writes: the second argument in the first one's shape and type."""
    target, source = node.args[:2]
    if not isinstance(source, fx.Node) or not isinstance(target, fx.Node):
        return None
    same = source.meta["val"].dtype == target.meta["val"].dtype and _shape(source) == _shape(target)
    return n.read(source) if same else None


def _slice_scatter(n: Normalizer, node: fx.Node) -> Any:
    """`x` with a part of it replaced: what stands before, the part, what stands after."""
    x, part, dim, start, end, step = _arguments(node)
    shape = _shape(x)
    size = shape[dim]
    if _is_whole(size, start, end, step):
        return n.read(part)
    if step != 1 or size == -1:
        return None
    first = min(start or 0, size) if (start or 0) >= 0 else size + start
    last = size if end is None else min(end, size) if end >= 0 else size + end
    parts = [n.read(part)]
    for begin, stop, place in ((0, first, 0), (last, size, 2)):
        if stop > begin:
            rest = (*shape[: dim % len(shape)], stop - begin, *shape[dim % len(shape) + 1 :])
            parts.insert(place, n.call(aten.slice.Tensor, (n.read(x), dim, begin, stop), rest))
    return n.keep(node, n.graph.call_function(aten.cat.default, (parts, dim)))


def _repeat(n: Normalizer, node: fx.Node) -> Any:
    """Repeating what has size 1 is expanding it."""
    x, times = _arguments(node)
    sizes = _shape(x)
    sizes = (1,) * (len(times) - len(sizes)) + sizes
    if any(count != 1 and size != 1 for count, size in zip(times, sizes, strict=True)):
        return None
    target = [size if count == 1 else n.read(count) for count, size in zip(times, sizes, strict=True)]
    return n.keep(node, n.graph.call_function(aten.expand.default, (n.read(x), target)))


def _stack(n: Normalizer, node: fx.Node) -> fx.Node:
    tensors, dim = _arguments(node)
    dim %= len(_shape(node))
    shape = (*_shape(node)[:dim], 1, *_shape(node)[dim + 1 :])
    parts = [n.call(aten.unsqueeze.default, (n.read(tensor), dim), shape) for tensor in tensors]
    return n.keep(node, n.graph.call_function(aten.cat.default, (parts, dim)))


def _convolution_1d(n: Normalizer, node: fx.Node) -> fx.Node:
    """A convolution over images of height 1."""
    target = n.layer_name(node, layers.conv1d_as_2d)
    return _as_image(n, node, lambda image: n.graph.call_module(target, (image,)))


def _average_pool_1d(n: Normalizer, node: fx.Node) -> fx.Node:
    """Pooling of images of height 1."""
    _, kernel, stride, padding, ceil, count_padding = _arguments(node)
    kernel, stride = [1, *kernel], [1, *stride] if stride else []
    padding = [0, *padding] if isinstance(padding, list | tuple) else [0, padding]
    return _as_image(
        n,
        node,
        lambda image: n.graph.call_function(
            aten.avg_pool2d.default, (image, kernel, stride, padding, ceil, count_padding)
        ),
    )


def _as_image(n: Normalizer, node: fx.Node, compute: Callable[[fx.Node], fx.Node]) -> fx.Node:
    (batch, channels, width), result = _shape(node.args[0]), _shape(node)
    image = n.call(aten.unsqueeze.default, (n.read(node.args[0]), 2), (batch, channels, 1, width))
    computed = compute(image)
    computed.meta["shape"] = (*result[:2], 1, result[2])
    return n.keep(node, n.graph.call_function(aten.squeeze.dim, (computed, 2)))


_REWRITES: dict[Any, Callable[[Normalizer, fx.Node], Any]] = {
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv1d.default: _convolution_1d,
    aten.linear.default: _linear,
    aten.layer_norm.default: _layer_norm,
    _BATCH_NORM: _batch_norm,
    operator.getitem: _getitem,
    aten.unbind.int: _unbind,
    aten.new_zeros.default: _new_zeros,
    aten.relu6.default: _relu6,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.copy.default: _copy,
    aten.repeat.default: _repeat,
    aten.stack.default: _stack,
    aten.avg_pool1d.default: _average_pool_1d,
    **dict.fromkeys(_CASTS, _cast),
}


def _not_traceable(detail: str) -> ArchitectureError:
    return ArchitectureError(detail, code="architecture_not_traceable", field="architecture")


def _arguments(node: fx.Node) -> list[Any]:
    """The node's arguments in the order of its schema, the schema's defaults where it has none."""
    assert isinstance(node.target, torch._ops.OpOverload)
    rest = node.target._schema.arguments[len(node.args) :]
    return [*node.args, *(node.kwargs.get(each.name, each.default_value) for each in rest)]


def _is_whole(size: int, start: Any, end: Any, step: Any) -> bool:
    """Whether a slice takes all of a dimension of this size (-1: the batch)."""
    to_the_end = end is None or (isinstance(end, int) and (end >= 2**62 or 0 < size <= end))
    return start in (None, 0) and to_the_end and step == 1


def _shape(argument: Any) -> tuple[int, ...]:
    assert isinstance(argument, fx.Node)
    return _sizes(argument.meta["val"])


def _sizes(value: Tensor) -> tuple[int, ...]:
    """-1 where the batch size stands."""
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)
