"""One pass through the network that finds every range, weight and bias of a student, without training.

Teacher and student run side by side, operator by operator, on the same images. Where the student has

    a quantizer,    its range is the one with which the layers behind it err least:
                    min over ranges of  sum over readers  |f(W' q(x) + b) - f(W x + b)|²
                    with W' rounded to nearest and f the ReLU behind the layer, if there is one: what
                    it cuts off does not count. Rounding errors average out in a layer's sums and
                    clipping errors do not, so ranges of least |q(x) - x|² are too narrow. At 8 bits,
                    and before operators that are no layers, they will do (MinError);
                    Between a layer and a depthwise one its channels are scaled to use the range
                    evenly (core.methods.equalization);
    a layer,        its weight and bias make up for what its inputs have become (core.methods.regression).

What comes later in the network sees, and mends, what rounding did before it.

Shapes: as in `core.methods.layer_matrix`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from core.errors import Diverged
from core.fake_quant.insert import Student
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d, QuantLinear
from core.fake_quant.observers import MinError
from core.fake_quant.placement import ceiling_of, clip_before, is_passthrough
from core.memory import within_memory
from core.methods.equalization import layers_around, rescale, scales
from core.methods.layer_matrix import Layer, apply
from core.methods.reader import Reader
from core.methods.regression import Rounding, find_weight
from core.networks.graph import module_of
from core.networks.layers import is_depthwise

_RANGE_RATIOS = torch.linspace(1.0, 0.2, 17).tolist()


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
    equalize: bool = True,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Sets the student's ranges, weights and biases in place, from `images` [N, C, H, W] on its device.

    The student is fresh: folded, with the teacher's weights. Its weights' grids are pinned afterwards.
    Without `equalize` every channel inside stays in the teacher's scale. `progress` is called at every
    operator, `check` there and within long ones; both may raise to stop. Where memory runs out the pass
    begins anew with half the images; the notes returned say so. Raises Diverged when a tensor holds values
    that are not finite.
    """
    student.eval()
    start, notes = _Start(student, images), list[str]()

    def run() -> None:
        walk = _Lockstep(student.graph, rounding, equalize, check, progress)
        walk.run(start.images.contiguous(memory_format=torch.channels_last))

    within_memory(start, notes, run)
    return notes


class _Start:
    """What the pass begins with: the images, and the student as it was."""

    def __init__(self, student: Student, images: Tensor) -> None:
        self.student, self.images = student, images
        self._state = deepcopy(student.state_dict())

    def halve_batch(self) -> int | None:
        if len(self.images) < 2:
            return None
        for layer in self.student.layers().values():
            layer.input_scale = layer.output_scale = None
        self.student.load_state_dict(self._state)
        self.images = self.images[: len(self.images) // 2]
        return len(self.images)


def default_rounding(student: Student) -> Rounding:
    """Networks of depthwise convolutions are thin: a few images do not determine their regressions.

    Depthwise 1 x 1 layers do not count: they stand for normalizations that no layer takes up.
    """
    thin = any(is_depthwise(layer) and layer.weight[0].numel() > 1 for layer in student.layers().values())
    return "squant" if thin else "gptq"


class _Lockstep(fx.Interpreter):
    def __init__(
        self,
        graph: fx.GraphModule,
        rounding: Rounding,
        equalize: bool,
        check: Callable[[], None],
        progress: Callable[[], None],
    ) -> None:
        super().__init__(graph)
        self.graph_module, self.rounding, self.equalize = graph, rounding, equalize
        self.check, self.progress = check, progress
        self.teachers: dict[Layer, tuple[Tensor, Tensor | None]] = {}  # weight and bias, once solved

    def run_node(self, n: fx.Node) -> Any:
        self.check()
        self.progress()
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
            x, y = self.equalized(n, module, x, y)
            self.find_range(n, module, y)
            return Pair(x, module(y))
        if isinstance(module, QuantConv2d | QuantLinear):
            weight, bias = self.teachers.get(module, (module.weight, module.bias))
            wanted = apply(module, x, weight, bias)
            if module not in self.teachers:  # a layer may run twice
                self.teachers[module] = weight.clone(), None if bias is None else bias.clone()
                find_weight(module, x, y, wanted, self.rounding, self.check)
            return Pair(wanted, module(y))
        run = getattr(self, n.op)
        return Pair(*(run(n.target, *side) for side in (of_teacher, of_student)))

    def equalized(
        self, node: fx.Node, quantizer: ActivationQuantizer, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The quantizer's inputs with their channels rescaled, where that is possible."""
        possible = self.equalize and quantizer.bits < 8
        around = layers_around(self.graph_module, node) if possible else None
        if around is None or not bool(y.isfinite().all()):
            return x, y
        (reader,) = self.readers(node, y)
        s_C = scales(quantizer, reader, y, _RANGE_RATIOS)
        rescale(*around, s_C)
        s_C11 = s_C.view(-1, 1, 1)
        x, y = x * s_C11, y * s_C11
        return x, y if quantizer.ceiling is None else y.clamp(max=quantizer.ceiling)

    def find_range(self, node: fx.Node, quantizer: ActivationQuantizer, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        if not bool(low.isfinite() & high.isfinite()):
            raise Diverged("The network's activations are not finite; no range can hold them.")
        readers = [] if quantizer.bits == 8 else list(self.readers(node, x))
        if not readers:
            quantizer.set_range(*MinError(steps=20, samples=1 << 14)(x, quantizer.grid_of))
            return
        errors = []
        for ratio in _RANGE_RATIOS:
            quantizer.set_range(low * ratio, high * ratio)
            grid = quantizer.grid()
            errors.append(torch.stack([reader.errors(grid).sum() for reader in readers]).sum())
        best = _RANGE_RATIOS[int(torch.stack(errors).argmin())]
        quantizer.set_range(low * best, high * best)

    def readers(self, node: fx.Node, x: Tensor) -> Iterator[Reader]:
        """The layers that read the node's value x, also where it is moved on the way."""
        for user in node.users:
            module = module_of(self.graph_module, user)
            if isinstance(module, QuantConv2d | QuantLinear):
                activation = clip_before(user)
                yield Reader.of(module, x, None if activation is None else ceiling_of(activation))
            elif is_passthrough(self.graph_module, user) and self.is_known(user, node):
                inputs = fx.map_arg(
                    (user.args, user.kwargs), lambda a: x if a is node else self.env[a].student
                )
                yield from self.readers(user, user.target(*inputs[0], **inputs[1]))  # type: ignore[operator]

    def is_known(self, user: fx.Node, node: fx.Node) -> bool:
        return all(other is node or other in self.env for other in user.all_input_nodes)


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
