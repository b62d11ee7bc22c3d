"""An ONNX graph under construction: unique names, shared constants, nodes in order.

Names are for people while the graph is built; the finished model has short ones, except for its
input, its output, and what `keep` was asked to leave.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from core.export.compact import shorten

OPSET, IR_VERSION = 21, 10  # where ONNX has UINT4 and INT4
OPSET_2_BITS, IR_VERSION_2_BITS = 25, 13  # where ONNX has UINT2 and INT2

INPUT, OUTPUT = "image", "logits"

DOMAIN = "zsq"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the file's own: ONNX Runtime puts its nodes in the place of every call.

    Inputs at the end may be left out of a call, as far as the nodes can do without.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]


class Builder:
    def __init__(self, opset: int = OPSET, ir_version: int = IR_VERSION) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.functions: dict[str, Function] = {}
        self.opset, self.ir_version = opset, ir_version
        self._count: dict[str, int] = {INPUT: 1, OUTPUT: 1}
        self._keep = {INPUT, OUTPUT}

    def require_2_bits(self) -> None:
        """The file will hold 2-bit tensors."""
        self.opset, self.ir_version = OPSET_2_BITS, IR_VERSION_2_BITS

    def keep(self, name: str) -> None:
        """Lets a tensor go by its name in the finished model."""
        self._keep.add(name)

    def name(self, wish: str) -> str:
        """`wish`, or `wish_2`, `wish_3` … where it is taken."""
        count = self._count[wish] = self._count.get(wish, 0) + 1
        return wish if count == 1 else self.name(f"{wish}_{count}")

    def constant(self, value: NDArray[Any], name: str) -> str:
        """An initializer of its own."""
        name = self.name(name)
        self.initializers[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def shared(self, value: Any, dtype: Any) -> str:
        """A small constant that every node may share."""
        array = np.asarray(value, dtype=dtype)
        content = array.tobytes()
        value_name = content.hex() if len(content) <= 32 else hashlib.sha256(content).hexdigest()
        name = f"const.{array.dtype}.{'x'.join(map(str, array.shape))}.{value_name}"
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def add_initializer(self, tensor: onnx.TensorProto) -> str:
        tensor.name = self.name(tensor.name)
        self.initializers[tensor.name] = tensor
        return tensor.name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Appends a node with one output; returns the output's name."""
        output = self.name(name)
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def call(self, function: Function, inputs: list[str], *names: str) -> list[str]:
        """Appends a call; `names` are wishes for its outputs, whose names are returned."""
        self.functions[function.name] = function
        outputs = [self.name(name) for name in names]
        self.nodes.append(helper.make_node(function.name, inputs, outputs, domain=DOMAIN))
        return outputs

    def split(self, inputs: list[str], name: str, outputs: int, **attributes: Any) -> list[str]:
        names = [self.name(f"{name}.{index}") for index in range(outputs)]
        self.nodes.append(helper.make_node("Split", inputs, names, **attributes))
        return names

    def model(
        self, input_shape: tuple[int, ...], classes: int, logits: str, metadata: dict[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The finished model: float32 `image` [batch, C, H, W] to float32 `logits` [batch, classes].

        Also returns what each tensor's name has become.
        """
        self.nodes.append(helper.make_node("Identity", [logits], [OUTPUT]))
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            DOMAIN,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *input_shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
            [tensor for name, tensor in self.initializers.items() if name in read],
        )
        renamed = shorten(graph, self._keep)
        opsets = [helper.make_opsetid("", self.opset)]
        functions = [
            helper.make_function(DOMAIN, f.name, f.inputs, f.outputs, f.nodes, opsets)
            for f in self.functions.values()
        ]
        if functions:
            opsets = [*opsets, helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(
            graph,
            functions=functions,
            opset_imports=opsets,
            ir_version=self.ir_version,
            producer_name="zsq",
        )
        helper.set_model_props(model, metadata)
        return model, renamed
