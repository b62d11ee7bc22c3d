"""An ONNX graph under construction: unique names, shared constants, nodes in order."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10

INPUT, OUTPUT = "image", "logits"


class Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._count: dict[str, int] = {INPUT: 1, OUTPUT: 1}

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

    def add_initializer(self, tensor: onnx.TensorProto) -> None:
        self.initializers[tensor.name] = tensor

    def node(
        self, kind: str, inputs: list[str], name: str, output: str | None = None, **attributes: Any
    ) -> str:
        """Appends a node with one output; returns the output's name."""
        output = self.name(output or name)
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def split(self, inputs: list[str], name: str, outputs: int, **attributes: Any) -> list[str]:
        names = [self.name(f"{name}.{index}") for index in range(outputs)]
        self.nodes.append(helper.make_node("Split", inputs, names, name=self.name(name), **attributes))
        return names

    def model(
        self, input_shape: tuple[int, ...], classes: int, logits: str, metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The finished model: float32 `image` [batch, C, H, W] to float32 `logits` [batch, classes]."""
        self.nodes.append(helper.make_node("Identity", [logits], [OUTPUT], name="output"))
        graph = helper.make_graph(
            self.nodes,
            "zsq",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *input_shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="zsq",
        )
        helper.set_model_props(model, metadata)
        return model
