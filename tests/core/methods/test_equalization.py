"""Equalization changes no function, and lets every channel use the range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.evaluate.layer_noise import activation_sqnr_db
from core.evaluate.metrics import sqnr_db
from core.fake_quant.insert import Student, build_student
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d
from core.methods import layerwise
from core.methods.calibrate import calibrate
from core.methods.equalization import layers_around, rescale, scales
from core.methods.reader import Reader
from core.networks.graph import module_of, trace
from core.spec import BitSpec
from tests.core import small

RATIOS = [1.0, 0.8, 0.6, 0.4, 0.2]
SPREAD = torch.linspace(0.25, 1, 16)  # of the channels' ranges


class Block(nn.Module):
    """Expand, depthwise, project; the expanded channels' ranges differ much."""

    def __init__(self, ceiling: float) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8 * 144, 4)
        self.ceiling = ceiling
        with torch.no_grad():
            self.expand.weight.mul_(SPREAD.view(-1, 1, 1, 1))
            self.expand.bias.mul_(SPREAD)  # type: ignore[union-attr]
            self.depthwise.weight.div_(SPREAD.view(-1, 1, 1, 1))

    def clip(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.ceiling == float("inf") else F.hardtanh(x, 0, self.ceiling)

    def forward(self, x: Tensor) -> Tensor:
        x = self.clip(self.depthwise(self.clip(self.expand(x))))
        return self.head(self.project(x).flatten(1))  # type: ignore[no-any-return]


def block(ceiling: float) -> fx.GraphModule:
    torch.manual_seed(0)
    return trace(Block(ceiling), (3, 12, 12)).requires_grad_(False)


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def between(student: Student) -> tuple[fx.Node, QuantConv2d, QuantConv2d]:
    """The quantizer that stands before the depthwise convolution, and the layers around it."""
    graph = student.graph
    found = [(node, around) for node in graph.graph.nodes if (around := at(graph, node)) is not None]
    ((node, around),) = found
    return node, *around


def at(graph: fx.GraphModule, node: fx.Node) -> tuple[QuantConv2d, QuantConv2d] | None:
    is_quantizer = isinstance(module_of(graph, node), ActivationQuantizer)
    return layers_around(graph, node) if is_quantizer else None


def expanded() -> Tensor:
    """What the depthwise convolution might read."""
    return torch.rand(4, 16, 12, 12, generator=torch.Generator().manual_seed(2))


def scales_for(x: Tensor) -> Tensor:
    """s_C where the depthwise convolution of the block reads x through 6 bits."""
    student = build_student(block(6.0), BitSpec.parse("w4a6"))
    node, _, behind = between(student)
    quantizer = module_of(student.graph, node)
    assert isinstance(quantizer, ActivationQuantizer)
    return scales(quantizer, Reader.of(behind, x, 6.0), x, RATIOS)


def float_forward(student: Student, x: Tensor) -> Tensor:
    """With the student's weights as they are, nothing rounded."""
    for quantizer in student.activation_quantizers().values():
        quantizer.enabled = False
    for layer in student.layers().values():
        layer.low_bit = lambda layer=layer: (layer.weight, layer.bias)  # type: ignore[method-assign,misc]
    logits: Tensor = student(x)
    return logits


@pytest.mark.parametrize("ceiling", [float("inf"), 60.0])
def test_the_function_stays_the_same(ceiling: float) -> None:
    teacher = block(ceiling)
    student = build_student(teacher, BitSpec.parse("w4a4"))
    _, before, behind = between(student)
    rescale(before, behind, torch.linspace(1, 4, 16))
    x = images(8, 1)
    assert torch.allclose(float_forward(student, x), teacher(x), atol=1e-5)


@torch.no_grad()
def test_the_noise_of_scaled_layers_is_measured_in_the_teachers_scale() -> None:
    teacher = block(60.0)
    student = build_student(teacher, BitSpec.parse("w8a8"))
    calibrate(student, images(16, 3), RunContext(Path("unused"), device=torch.device("cpu")))
    _, before, behind = between(student)
    plain = activation_sqnr_db(teacher, student, images(8, 1), torch.device("cpu"))
    weights = [
        sqnr_db(before.weight, before.unscaled_weight()),
        sqnr_db(behind.weight, behind.unscaled_weight()),
    ]
    originals = before.weight.clone(), behind.weight.clone()
    rescale(before, behind, torch.linspace(1, 2, 16))
    scaled = activation_sqnr_db(teacher, student, images(8, 1), torch.device("cpu"))
    assert scaled["expand"] == pytest.approx(plain["expand"], abs=0.5)
    found = [
        sqnr_db(w, layer.unscaled_weight()) for w, layer in zip(originals, (before, behind), strict=True)
    ]
    assert found == pytest.approx(weights, abs=0.5)


def test_codes_of_a_pinned_weight_stay_the_same() -> None:
    _, before, behind = between(build_student(block(6.0), BitSpec.parse("w4a4")))
    before.fix_grid(before.grid())
    codes = before.grid().codes(before.weight)
    rescale(before, behind, torch.linspace(1, 4, 16))
    assert torch.equal(before.grid().codes(before.weight), codes)


def test_each_channel_uses_the_range_of_the_widest() -> None:
    """As far as 4 times as large a scale reaches."""
    x = expanded() * torch.linspace(0.5, 5, 16).view(-1, 1, 1)
    s_C = scales_for(x)
    assert (s_C >= 1).all() and (s_C == 1).any() and (s_C == 4).any()
    reached = (s_C.view(-1, 1, 1) * x).amax((0, 2, 3))
    assert torch.allclose(reached[s_C < 4], x.amax(), rtol=0.05)
    assert (reached[s_C == 4] < x.amax()).all()


@pytest.mark.parametrize("ceiling", [float("inf"), 6.0])
@torch.no_grad()
def test_the_student_gets_closer_to_its_teacher(ceiling: float) -> None:
    """Where nothing but the tensor before the depthwise convolution is rounded to few bits."""
    teacher, errors = block(ceiling), []
    for equalizes in (True, False):
        student = build_student(teacher, BitSpec.parse("w8a4"))
        node = between(student)[0]
        for quantizer in student.activation_quantizers().values():
            quantizer.enabled = quantizer is module_of(student.graph, node)
        layerwise.solve(student, images(32, 3), rounding="squant", equalize=equalizes)
        errors.append(float((student(images(64, 4)) - teacher(images(64, 4))).square().mean()))
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "twice"])
def test_only_depthwise_readers_that_run_once_are_equalized(name: str) -> None:
    graph = build_student(small.teacher(name), BitSpec.parse("w4a4")).graph
    assert all(at(graph, node) is None for node in graph.graph.nodes)


def test_nothing_is_scaled_where_features_are_compared() -> None:
    student = build_student(block(6.0), BitSpec.parse("w4a4"))
    layerwise.solve(student, images(8, 3), rounding="squant", equalize=False)
    assert all(layer.output_scale is None for layer in student.layers().values())
    student = build_student(block(6.0), BitSpec.parse("w4a4"))
    layerwise.solve(student, images(8, 3), rounding="squant")
    assert between(student)[1].output_scale is not None


def test_every_kernel_of_a_channel_is_divided() -> None:
    """Several kernels read a channel where the depth multiplier is above 1."""
    before = QuantConv2d.of(nn.Conv2d(3, 4, 1), 4)
    behind = QuantConv2d.of(nn.Conv2d(4, 8, 3, groups=4), 4)
    x, s_C = torch.randn(2, 3, 6, 6), torch.tensor([1.0, 2.0, 3.0, 4.0])
    wanted = F.conv2d(F.conv2d(x, before.weight, before.bias), behind.weight, behind.bias, groups=4)
    rescale(before, behind, s_C)
    found = F.conv2d(F.conv2d(x, before.weight, before.bias), behind.weight, behind.bias, groups=4)
    assert torch.allclose(found, wanted, atol=1e-5)


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.clip(self.depthwise(self.clip(self.expand(x))))
        x = self.clip(self.depthwise(x))
        return self.head(self.project(x).flatten(1))  # type: ignore[no-any-return]


def test_a_depthwise_layer_that_runs_twice_is_left_alone() -> None:
    torch.manual_seed(0)
    graph = build_student(trace(Twice(6.0), (3, 12, 12)), BitSpec.parse("w4a4")).graph
    assert all(at(graph, node) is None for node in graph.graph.nodes)


def test_channels_that_are_always_zero_are_scaled_within_bounds() -> None:
    x = expanded()
    x[:, 3] = 0
    assert scales_for(x)[3] == 4
    assert (scales_for(0 * x) == 1).all()


def test_at_8_bits_nothing_is_scaled() -> None:
    student = build_student(block(6.0), BitSpec.parse("w4a8"))
    layerwise.solve(student, images(8, 3), rounding="squant")
    assert all(layer.output_scale is None for layer in student.layers().values())


@torch.no_grad()
def test_scaled_values_end_where_the_relu6_cuts_them() -> None:
    """The student that the pass sees is the one that will run."""
    student = build_student(block(6.0), BitSpec.parse("w8a6"))
    seen: list[Tensor] = []
    node = between(student)[0]
    quantizer = module_of(student.graph, node)
    assert isinstance(quantizer, ActivationQuantizer)
    quantizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    x = 8 * images(8, 3)
    layerwise.solve(student, x, rounding="nearest")
    student(x)
    assert torch.allclose(seen[0], seen[1], atol=0.2) and seen[1].max() <= 6


class Forked(Block):
    """Two depthwise convolutions read the same tensor."""

    def __init__(self, ceiling: float) -> None:
        super().__init__(ceiling)
        self.other = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.clip(self.expand(x))
        x = self.clip(self.depthwise(expanded)) + self.clip(self.other(expanded))
        return self.head(self.project(x).flatten(1))  # type: ignore[no-any-return]


def test_a_tensor_that_others_read_too_is_left_alone() -> None:
    torch.manual_seed(0)
    graph = build_student(trace(Forked(6.0), (3, 12, 12)), BitSpec.parse("w4a4")).graph
    assert all(at(graph, node) is None for node in graph.graph.nodes)
