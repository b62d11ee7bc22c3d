"""A network as a graph of few, well-defined operators.

`trace` captures the network with `torch.export`, whose functional ATen graph has one spelling for
each operator, and puts the layers that carry weights back as modules under their original names:

    call_module    nn.Conv2d, nn.Linear, nn.LayerNorm, BatchNorm        ("layer1.0.conv1")
    call_function  ATen overloads without weights                       (aten.relu.default)
    get_attr       parameters that stand alone                          ("encoder.pos_embedding")

Every tensor-valued node carries `meta["shape"]`: a tuple of ints, -1 where the batch size stands.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from core.errors import ArchitectureError

aten = torch.ops.aten

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d

_BATCH_NORM = aten._native_batch_norm_legit_no_training.default


def trace(network: nn.Module, input_shape: Sequence[int]) -> fx.GraphModule:
    """Captures `network` (evaluation mode) for inputs of shape (N, *input_shape), any N ≥ 1.

    The returned graph owns copies of the parameters and takes one tensor to one tensor (the logits).
    Raises ArchitectureError (`architecture_not_traceable`) when the network's Python cannot be
    captured as one graph.
    """
    network = deepcopy(network).cpu().eval()
    example = torch.zeros(2, *input_shape)
    batch = torch.export.Dim.DYNAMIC
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)
        program = program.run_decompositions({})
    except Exception as error:  # torch.export raises many unrelated types for user code
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ArchitectureError(
            "This network cannot be captured as a graph: its forward pass depends on data, or uses an "
            f"operator that torch.export does not know ({reason}).",
            code="architecture_not_traceable",
            field="architecture",
        ) from error
    return _Normalizer(program).run()


def with_outputs(graph: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """The same network, also returning the values of the nodes `names`: (logits, [values]).

    Shares every module with `graph`.
    """
    copy = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    logits = copy.graph_copy(graph.graph, mapped)
    by_name = {node.name: mapped[node] for node in graph.graph.nodes if node in mapped}
    copy.output((logits, [by_name[name] for name in names]))
    return fx.GraphModule(graph, copy)


def stage_outputs(graph: fx.GraphModule) -> list[str]:
    """Names of the nodes where the network's stages end, in order.

    A stage is a run of layers at one spatial resolution; its end is the last activation before the
    next downsampling. Resolutions with fewer than two convolutions (a stem) and 1 × 1 maps are left
    out. For ResNet-20 at 32 × 32 these are the outputs of layer1, layer2 and layer3.
    """
    convolutions: Counter[tuple[int, ...]] = Counter()
    last: dict[tuple[int, ...], str] = {}
    for node in graph.graph.nodes:
        shape = node.meta.get("shape")
        if shape is None or len(shape) != 4 or shape[2] * shape[3] <= 1:
            continue
        module = module_of(graph, node)
        if isinstance(module, nn.Conv2d):
            convolutions[shape[2:]] += 1
        if module is not None or node.target in STAGE_END_OPERATORS:
            last[shape[2:]] = node.name
    return [name for size, name in last.items() if convolutions[size] >= 2]


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a `call_module` node calls; None for other nodes."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the node's value, -1 for the batch size; None when it is no tensor."""
    shape = node.meta.get("shape")
    return None if shape is None else tuple(shape)


STAGE_END_OPERATORS: frozenset[Any] = frozenset(
    {
        aten.relu.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.silu.default,
        aten.gelu.default,
        aten.add.Tensor,
        aten.cat.default,
    }
)

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

_VIEWS: frozenset[Any] = frozenset({aten.view.default, aten._unsafe_view.default})


class _Normalizer:
    """Rewrites an exported program into the form that the top of this file describes."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        self.source = program.graph
        self.names: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.tensors: dict[str, Any] = {**program.state_dict, **program.constants}
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.mapped: dict[fx.Node, Any] = {}

    def run(self) -> fx.GraphModule:
        for node in self.source.nodes:
            self.mapped[node] = self.visit(node)
        traced = fx.GraphModule(self.root, self.graph, class_name="TracedNetwork")
        _fold_constants(traced)
        traced.graph.eliminate_dead_code()
        traced.graph.lint()
        traced.recompile()
        return traced.eval()

    def visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if node.name in self.names:
                return None  # becomes a module's parameter, or a get_attr where it is read alone
            return self.keep(node, self.graph.placeholder(node.name))
        if node.op == "output":
            values = node.args[0]
            assert isinstance(values, tuple | list) and len(values) == 1
            return self.graph.output(self.read(values[0]))
        if node.target in (aten.conv2d.default, aten.conv2d.padding):
            return self.layer(node, _conv2d)
        if node.target is aten.linear.default:
            return self.layer(node, _linear)
        if node.target is aten.layer_norm.default and isinstance(node.args[2], fx.Node):
            return self.layer(node, _layer_norm, weight=2)
        if node.target is _BATCH_NORM:
            return self.layer(node, _batch_norm if _rank(node.args[0]) == 4 else _batch_norm_1d)
        if node.target is operator.getitem and _target(node.args[0]) is _BATCH_NORM:
            return self.read(node.args[0])
        if node.target is aten.new_zeros.default:  # takes only its type from the tensor
            return self.keep(node, self.graph.call_function(aten.zeros.default, (node.args[1],)))
        if node.target in _IDENTITIES or _is_whole_slice(node):
            return self.read(node.args[0])
        if node.target is aten.relu6.default:  # what nn.ReLU6 becomes
            return self.keep(
                node, self.graph.call_function(aten.hardtanh.default, (self.read(node.args[0]), 0.0, 6.0))
            )
        # A view needs the memory layout it was traced with; without the clones, and with
        # channels-last inputs, only a reshape is right.
        target = aten.reshape.default if node.target in _VIEWS else node.target
        assert callable(target)
        return self.keep(node, self.graph.call_function(target, self.read(node.args), self.read(node.kwargs)))

    def layer(self, node: fx.Node, make: Callable[..., nn.Module], weight: int = 1) -> fx.Node:
        """Puts a weighted operator back as a module named after its weight."""
        source = node.args[weight]
        name = self.names.get(source.name) if isinstance(source, fx.Node) else None
        if name is None:
            raise _computed(node)
        target = (
            name.removesuffix(".weight") if name.endswith(".weight") else name.replace(".", "_") + "_layer"
        )
        if not _has_module(self.root, target):
            arguments = [self.tensor(a) if isinstance(a, fx.Node) else a for a in node.args[1:]]
            self.root_add(target, make(*arguments).eval())
        return self.keep(node, self.graph.call_module(target, (self.read(node.args[0]),)))

    def tensor(self, node: fx.Node) -> Tensor:
        """A parameter, or what the network computes from parameters alone (a bias with zeros put in)."""
        if node.name in self.names:
            tensor: Tensor = self.tensors[self.names[node.name]]
            return tensor.detach().clone()
        if node.op != "call_function":
            raise _computed(node)
        arguments, keywords = fx.map_arg((node.args, node.kwargs), self.tensor)
        with torch.no_grad():
            value: Tensor = node.target(*arguments, **keywords)  # type: ignore[operator]
        return value

    def read(self, argument: Any) -> Any:
        return fx.map_arg(argument, self.read_node)

    def read_node(self, node: fx.Node) -> Any:
        if node.op == "placeholder" and node.name in self.names:
            name = self.names[node.name]
            parent, _, leaf = name.rpartition(".")
            holder = self.root_module(parent)
            if not hasattr(holder, leaf):
                holder.register_buffer(leaf, self.tensor(node))
            return self.keep(node, self.graph.get_attr(name))
        return self.mapped[node]

    def keep(self, old: fx.Node, new: fx.Node) -> fx.Node:
        value = old.meta.get("val")
        if (
            isinstance(value, (tuple, list))
            and value
            and isinstance(value[0], Tensor)
            and old.target is _BATCH_NORM
        ):
            value = value[0]
        if isinstance(value, Tensor):
            new.meta["shape"] = tuple(s if isinstance(s, int) else -1 for s in value.shape)
        return new

    def root_module(self, path: str) -> nn.Module:
        module = self.root
        for part in path.split(".") if path else []:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        return module

    def root_add(self, path: str, module: nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        self.root_module(parent).add_module(leaf, module)


def constant_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values are the same for every input image."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op in ("get_attr", "call_function", "call_module") and all(
            source in found for source in node.all_input_nodes
        ):
            found.add(node)
    return found


@torch.no_grad()
def _fold_constants(graph: fx.GraphModule) -> None:
    """Replaces what depends on parameters only (position biases, attention masks) by its value."""
    values: dict[fx.Node, Any] = {}
    constants = constant_nodes(graph)
    for node in graph.graph.nodes:
        if node not in constants:
            continue
        arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(graph)
            continue
        function = graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        values[node] = function(*arguments, **keywords)
        if isinstance(values[node], Tensor) and any(user not in constants for user in node.users):
            name = f"constant_{node.name}"
            graph.register_buffer(name, values[node].detach().clone())
            with graph.graph.inserting_before(node):
                new = graph.graph.get_attr(name)
            new.meta["shape"] = tuple(values[node].shape)
            node.replace_all_uses_with(new)


def _computed(node: fx.Node) -> ArchitectureError:
    return ArchitectureError(
        f"A layer of this network computes its own weight or bias ({node.name}); it cannot be quantized.",
        code="architecture_not_traceable",
        field="architecture",
    )


def _target(argument: Any) -> Any:
    return argument.target if isinstance(argument, fx.Node) else None


def _rank(argument: Any) -> int:
    return int(argument.meta["val"].dim())


def _has_module(root: nn.Module, path: str) -> bool:
    try:
        return len(list(root.get_submodule(path).parameters(recurse=False))) > 0
    except AttributeError:
        return False


def _is_whole_slice(node: fx.Node) -> bool:
    """`x[:]` along one dimension: torch writes one for every leading `:`."""
    if node.target is not aten.slice.Tensor:
        return False
    given = list(node.args[1:])
    _, start, end, step = given + [0, None, None, 1][len(given) :]
    to_the_end = end is None or (isinstance(end, int) and end >= 2**62)
    return bool(start in (None, 0) and to_the_end and step == 1)


def _conv2d(
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


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    return _fill(nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta"), weight, bias)


def _layer_norm(
    shape: Any, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> nn.Module:
    return _fill(nn.LayerNorm(list(shape), eps, bias=bias is not None, device="meta"), weight, bias)


def _batch_norm(*arguments: Any) -> nn.Module:
    return _fill_norm(nn.BatchNorm2d, *arguments)


def _batch_norm_1d(*arguments: Any) -> nn.Module:
    return _fill_norm(nn.BatchNorm1d, *arguments)


def _fill_norm(
    kind: type[BatchNorm],
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> nn.Module:
    layer = kind(len(mean), eps, momentum)
    assert layer.running_mean is not None and layer.running_var is not None
    with torch.no_grad():
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
