"""Short names: nobody's name is lost, and everything still hangs together."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from core.export.compact import shorten


def graph(tensors: int = 3) -> onnx.GraphProto:
    """long.0 -> long.1 -> … each adding `often`."""
    nodes = [helper.make_node("Add", [f"long.{i}", "often"], [f"long.{i + 1}"]) for i in range(tensors)]
    nodes.append(helper.make_node("Clip", [f"long.{tensors}", "", "often"], ["result"]))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("long.0", "result")]
    return helper.make_graph(nodes, "g", values[:1], values[1:], [helper.make_tensor("often", 1, [1], [1.0])])


def test_all_but_the_kept_get_short_names_the_most_frequent_first() -> None:
    g = graph()
    renamed = shorten(g, {"long.0", "result"})
    assert renamed["often"] == "a"
    assert g.initializer[0].name == "a"
    assert [list(node.input) for node in g.node] == [["long.0", "a"], ["b", "a"], ["c", "a"], ["d", "", "a"]]
    assert [node.output[0] for node in g.node] == ["b", "c", "d", "result"]


def test_a_kept_name_is_never_given_to_another() -> None:
    g = graph()
    g.node[0].input[0] = "a"
    g.input[0].name = "a"
    renamed = shorten(g, {"a", "result"})
    assert renamed["a"] == "a"
    assert len(set(renamed.values())) == len(renamed)


def test_names_do_not_run_out() -> None:
    renamed = shorten(graph(200), {"long.0", "result"})
    assert len(set(renamed.values())) == len(renamed)
    assert max(len(name) for name in renamed.values() if name not in ("long.0", "result")) == 2
