"""Does ONNX Runtime compute what the student computes? Operator by operator, on the same integers.

End to end the two drift apart: one rounding that falls the other way grows through the layers, as
it does between float32 and float64. So every operator of the student is given the integers that
ONNX Runtime gave to its own, and the integers that come out are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx

from core.export.builder import INPUT, OUTPUT
from core.export.onnx import Exported
from core.export.session import as_input, open_session
from core.fake_quant.insert import Student
from core.fake_quant.modules import ActivationQuantizer
from core.networks.graph import module_of


@dataclass(frozen=True, slots=True)
class TensorParity:
    """One quantized tensor: how many of its integers differ, and by how many steps at most."""

    name: str
    elements: int
    different: int
    largest_step: int


@dataclass(frozen=True, slots=True)
class Parity:
    """`logits_error` is the largest difference of the float logits, given identical last integers."""

    tensors: list[TensorParity]
    logits_error: float
    images: int

    @property
    def largest_step(self) -> int:
        return max((tensor.largest_step for tensor in self.tensors), default=0)

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def different(self) -> int:
        return sum(tensor.different for tensor in self.tensors)

    @property
    def different_share(self) -> float:
        return self.different / self.elements if self.elements else 0.0

    def most_different(self, count: int) -> list[TensorParity]:
        """The tensors with most differing integers, at most `count`, none without any."""
        differing = [tensor for tensor in self.tensors if tensor.different]
        return sorted(differing, key=lambda tensor: tensor.different, reverse=True)[:count]


def compare(student: Student, exported: Exported, x_NCHW: Tensor) -> Parity:
    """Compares every quantized tensor on the images `x_NCHW` (normalized float32)."""
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    names = list(dict.fromkeys(exported.codes.values()))
    model.graph.output.extend(
        helper.make_tensor_value_info(
            n, TensorProto.INT8 if student.grids.signed_activations else TensorProto.UINT8, None
        )
        for n in names
    )
    results = open_session(model).run([OUTPUT, *names], {INPUT: as_input(x_NCHW)})
    tensors = {name: torch.from_numpy(value) for name, value in zip(names, results[1:], strict=True)}
    codes = {
        node: tensors[name].to(torch.int32) - exported.raised_by[node]
        for node, name in exported.codes.items()
    }
    walk = _ForcedWalk(student.folded().cpu().eval().graph, codes)
    with torch.no_grad():
        logits = walk.run(x_NCHW.cpu().contiguous())
    error = float((logits - torch.from_numpy(results[0])).abs().max())
    return Parity(walk.tensors, error, len(x_NCHW))


class _ForcedWalk(fx.Interpreter):
    """Runs the student, but hands on ONNX Runtime's integers instead of its own."""

    def __init__(self, graph: fx.GraphModule, codes: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self.codes = codes
        self.tensors: list[TensorParity] = []

    def run_node(self, n: fx.Node) -> Any:
        assert isinstance(self.module, fx.GraphModule)
        quantizer = module_of(self.module, n)
        if not isinstance(quantizer, ActivationQuantizer):
            return super().run_node(n)
        value = self.fetch_args_kwargs_from_env(n)[0][0]
        grid = quantizer.grid()
        own, theirs = grid.codes(value), self.codes[n.name]
        steps = (own - theirs.view_as(own)).abs()
        name = str(n.target).rpartition(".")[2]
        self.tensors.append(
            TensorParity(
                name, steps.numel(), int((steps > 0).sum()), int(steps.max()) if steps.numel() else 0
            )
        )
        return grid.values(theirs.view_as(own))
