"""The noise in each layer's output: that of the whole networks, found without keeping them in memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core.evaluate import layer_noise
from core.evaluate.layer_noise import activation_sqnr_db
from core.evaluate.metrics import sqnr_db
from core.fake_quant.insert import build_student
from core.networks.fold_bn import fold_bn
from core.networks.graph import BatchNorm, module_of, with_outputs
from core.spec import BitSpec
from tests.core import small

CPU = torch.device("cpu")


def noise(name: str, bits: str = "w4a4", count: int = 8) -> dict[str, float]:
    student = small.student(name, bits).folded()
    return activation_sqnr_db(fold_bn(small.teacher(name)), student, small.images(count, seed=3), CPU)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(small.NETWORKS) - {"twice", "dead"}))
def test_it_is_the_ratio_of_the_outputs_of_the_whole_networks(name: str) -> None:
    """The teacher keeps its batch normalization here: where that was folded, its output is the layer's."""
    teacher, student = small.teacher(name), small.student(name)
    nodes = {str(node.target): node for node in teacher.graph.nodes if node.op == "call_module"}
    outputs = {}
    for layer in student.layers():
        node = nodes[layer]
        after = next(iter(node.users))
        folded = student.graph.meta["folded"].get(after.name) == node.name
        assert folded == (name != "unfoldable" and isinstance(module_of(teacher, after), BatchNorm))
        outputs[layer] = after.name if folded else node.name
    x = small.images(8, seed=3)
    _, expected = with_outputs(teacher, list(outputs.values()))(x)
    _, found = student.with_outputs(list(outputs.values()))(x)
    ratios = noise(name)
    assert set(ratios) == set(outputs)
    for layer, reference, value in zip(outputs, expected, found, strict=True):
        assert ratios[layer] == pytest.approx(sqnr_db(reference, value), abs=1e-3), layer
        assert 0 < ratios[layer] < 60


def test_a_layer_that_runs_twice_counts_with_both_outputs() -> None:
    teacher, student = fold_bn(small.teacher("twice")), small.student("twice").folded()
    x = small.images(8, seed=3)
    runs: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    for kind, graph in (("teacher", teacher), ("student", student.graph)):
        graph.get_submodule("shared.0").register_forward_hook(
            lambda module, inputs, output, kind=kind: runs[kind].append(output)
        )
    with torch.no_grad():
        teacher(x), student(x)
    expected = sqnr_db(torch.cat(runs["teacher"]), torch.cat(runs["student"]))
    assert len(runs["teacher"]) == 2
    assert activation_sqnr_db(teacher, student, x, CPU)["shared.0"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["plain", "residual", "mixer"])
def test_more_bits_are_less_noise_in_every_layer(name: str) -> None:
    few, many = noise(name, "w4a4"), noise(name, "w8a8")
    for layer, ratio in few.items():
        assert ratio + 10 < many[layer]


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise("plain")
    monkeypatch.setattr(layer_noise, "_PIXELS", 3 * 12 * 12)
    assert noise("plain") == pytest.approx(whole, rel=1e-5)


def test_without_noise_or_signal_it_is_infinite() -> None:
    teacher = fold_bn(small.teacher("plain"))
    student = build_student(teacher, BitSpec(8, 8)).eval()
    for quantizer in student.activation_quantizers().values():
        quantizer.enabled = False
    for layer in (student.layers()["first.0"], teacher.get_submodule("first.0")):
        assert isinstance(layer.weight, nn.Parameter) and isinstance(layer.bias, nn.Parameter)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = small.images(2)
    assert activation_sqnr_db(teacher, student, x, CPU)["first.0"] == math.inf
    nn.init.ones_(student.layers()["first.0"].bias)
    assert activation_sqnr_db(teacher, student, x, CPU)["first.0"] == -math.inf


def test_values_are_dropped_as_soon_as_nothing_reads_them() -> None:
    """Else a VGG's outputs, for all images, would all be in memory at once."""
    graph = fold_bn(small.teacher("plain"))
    walk = layer_noise._Walk(graph)
    layers = set(small.student("plain").layers())
    alive = [len(walk.env) for _ in walk.outputs(small.images(1), layers)]
    assert len(alive) == 4 and max(alive) <= 2 < len(graph.graph.nodes)


def test_it_can_be_stopped() -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        activation_sqnr_db(
            fold_bn(small.teacher("plain")), small.student("plain").folded(), small.images(1), CPU, check
        )
