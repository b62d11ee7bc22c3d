"""Quantized layers compute with rounded weights and biases; activation scales learn by LSQ's gradient."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import Diverged
from core.fake_quant.affine import Grid, fake_quantize, weight_grid
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d, QuantLinear, listen
from core.fake_quant.observers import MinMax


def calibrated(
    bits: int, low: float, high: float, ceiling: float | None = None, *, signed: bool = False
) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(bits, ceiling, signed=signed)
    quantizer.set_range(torch.tensor(low), torch.tensor(high))
    return quantizer


def layers(bits: int = 4, bias_bits: int = 32) -> list[tuple[QuantConv2d | QuantLinear, Tensor]]:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, 2, 1, groups=2)
    return [
        (QuantConv2d.of(conv, bits, bias_bits), torch.randn(2, 4, 8, 8)),
        (QuantLinear.of(nn.Linear(4, 6), bits, bias_bits), torch.randn(2, 4)),
    ]


def plain(layer: QuantConv2d | QuantLinear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, QuantLinear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, 1, layer.dilation, layer.groups)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_layer_computes_with_its_rounded_weight(kind: int, bits: int) -> None:
    layer, x = layers(bits)[kind]
    rounded = fake_quantize(layer.weight, weight_grid(layer.weight, bits, layer.bias))
    assert torch.equal(layer(x), plain(layer, x, rounded, layer.bias))
    assert rounded[0].unique().numel() <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_symmetric_layers_round_to_as_many_levels_above_zero_as_below(bits: int) -> None:
    for layer, _ in layers(bits):
        kind = QuantConv2d if isinstance(layer, QuantConv2d) else QuantLinear
        rounded = kind.of(layer, bits, symmetric=True).low_bit_weight().detach()  # type: ignore[arg-type]
        steps = rounded / weight_grid(layer.weight, bits, symmetric=True).scale.view(
            -1, *[1] * (rounded.dim() - 1)
        )
        assert torch.allclose(steps, steps.round(), atol=1e-4)
        assert float(steps.abs().max().round()) == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("kind", [0, 1])
def test_a_layer_is_a_copy(kind: int) -> None:
    origin: nn.Conv2d | nn.Linear = [nn.Conv2d(4, 6, 3), nn.Linear(4, 6)][kind]  # type: ignore[assignment]
    kinds = {nn.Conv2d: QuantConv2d.of, nn.Linear: QuantLinear.of}
    before = origin.weight.detach().clone()
    copy = kinds[type(origin)](origin, 4)  # type: ignore[operator]
    with torch.no_grad():
        copy.weight.zero_()
    assert torch.equal(origin.weight, before)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_bias_is_rounded_to_the_step_of_the_codes_that_the_layer_reads(kind: int) -> None:
    layer, _ = layers()[kind]
    assert torch.equal(layer.low_bit_bias(), layer.bias)  # reads floats
    reads = ActivationQuantizer(4)
    listen(layer, reads)
    assert torch.equal(layer.low_bit_bias(), layer.bias)  # nothing calibrated yet
    reads.set_range(torch.tensor(-1.0), torch.tensor(2.0))
    step = reads.scale * layer.grid().scale
    bias = layer.low_bit_bias()
    assert bias is not None
    steps = bias / step
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert bool(((bias - layer.bias).abs() <= step / 2 * 1.0001).all())
    bias.sum().backward()
    assert layer.bias.grad.tolist() == [1.0] * 6
    assert reads.scale.grad is None


def test_narrow_biases_take_few_values() -> None:
    linear = nn.Linear(4, 5000)
    layer = QuantLinear.of(linear, 8, bias_bits=8)
    given, found = linear.bias.detach(), layer.low_bit_bias()
    assert found is not None
    assert found.unique().numel() <= 255
    assert float((found - given).abs().max()) <= float(given.abs().max()) / 127 / 2 * 1.001


def test_the_grid_follows_the_weight_until_it_is_fixed() -> None:
    layer, _ = layers()[1]
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(layer.grid().scale, weight_grid(layer.weight, 4, layer.bias).scale)
    fixed = layer.grid()
    layer.fix_grid(fixed)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert layer.grid() is fixed
    layer.fix_grid(None)
    assert torch.equal(layer.grid().scale, 2 * fixed.scale)


def test_gradients_reach_the_weight_through_the_rounding() -> None:
    for layer, x in layers():
        layer(x).square().sum().backward()
        assert layer.weight.grad is not None
        assert float(layer.weight.grad.abs().min()) > 0


def test_listening_adds_no_parameter_and_survives_a_copy() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer, self.layer = calibrated(4, 0, 1), layers()[1][0]
            listen(self.layer, self.quantizer)

    pair = Pair()
    assert not any("reads" in name for name in pair.state_dict())
    copy = deepcopy(pair)
    assert copy.layer.reads is copy.quantizer
    assert copy.layer.reads is not pair.quantizer


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_quantizer_rounds_to_its_unsigned_grid(bits: int) -> None:
    quantizer = calibrated(bits, -1, 3)
    x = torch.linspace(-2, 4, 500)
    assert torch.equal(quantizer(x), fake_quantize(x, quantizer.grid()))
    assert quantizer(x).unique().numel() == 2**bits == quantizer.high + 1


def test_a_signed_quantizer_rounds_to_int8_around_zero() -> None:
    quantizer = calibrated(8, -1.0, 2.54, signed=True)
    assert (quantizer.low, quantizer.high, float(quantizer.zero_point)) == (-128, 127, 0.0)
    assert float(quantizer.scale) == pytest.approx(0.02)
    x = torch.linspace(-4, 4, 500)
    assert torch.equal(quantizer(x), fake_quantize(x, quantizer.grid()))
    assert float(quantizer(x).min()) == pytest.approx(-2.56)


def test_a_quantizer_that_observes_takes_the_range_it_is_told() -> None:
    quantizer = ActivationQuantizer(8)
    assert not bool(quantizer.calibrated)
    quantizer.observer = MinMax()
    quantizer(torch.tensor([-1.0, 1.55]))
    quantizer.observer = None
    quantizer(torch.tensor([-100.0, 100.0]))
    assert bool(quantizer.calibrated)
    assert float(quantizer.scale) == pytest.approx(0.01)
    assert float(quantizer.zero_point) == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_range_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(Diverged):
        ActivationQuantizer(8).set_range(torch.tensor(-1.0), torch.tensor(value))


@pytest.mark.parametrize("signed", [False, True])
def test_the_ceiling_bounds_calibrated_and_learned_ranges(signed: bool) -> None:
    quantizer = calibrated(4, 0.0, 9.0, ceiling=6.0, signed=signed)
    assert float(quantizer.scale) == pytest.approx(6 / 7 if signed else 6 / 15)
    with torch.no_grad():
        quantizer.scale.fill_(3.0)
    quantizer.constrain()
    assert float(quantizer.scale) * quantizer.high == pytest.approx(6.0)
    with torch.no_grad():
        quantizer.scale.fill_(-1.0)
    quantizer.constrain()
    assert float(quantizer.scale) > 0


def test_a_disabled_quantizer_lets_floats_pass() -> None:
    quantizer = calibrated(2, 0, 1)
    quantizer.enabled = False
    x = torch.rand(10)
    assert quantizer(x) is x


@pytest.mark.parametrize("signed", [False, True])
def test_learning_changes_no_value(signed: bool) -> None:
    quantizer = calibrated(4, -1, 2, signed=signed)
    x = torch.randn(4, 3, 5, 5)
    frozen = quantizer(x)
    quantizer.scale.requires_grad_(True)
    assert torch.equal(quantizer(x), frozen)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_scale_learns_by_the_gradient_of_lsq(bits: int, signed: bool) -> None:
    """Esser et al., equation 3: round(v/s) − v/s inside, the bound outside, over √(N·Q) per image."""
    quantizer = calibrated(bits, -1.0, 2.0, signed=signed)
    quantizer.scale.requires_grad_(True)
    x = (2 * torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    upstream = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    quantizer(x).backward(upstream)

    grid: Grid = quantizer.grid()
    v = x.detach().double() / grid.scale.double()
    low, high = grid.low - grid.zero_point.double(), grid.high - grid.zero_point.double()
    inside = (v.round() >= low) & (v.round() <= high)
    slope = torch.where(inside, v.round() - v, torch.where(v < low, low, high))
    factor = 1 / (3 * 6 * 6 * grid.high) ** 0.5
    expected = float((slope * upstream.double()).sum()) * factor
    assert quantizer.scale.grad is not None and x.grad is not None
    assert float(quantizer.scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert torch.equal(x.grad, torch.where(inside, upstream, torch.zeros(())))
    assert quantizer.zero_point.grad is None


def test_a_pinned_grid_is_part_of_the_state() -> None:
    torch.manual_seed(0)
    layers = [QuantConv2d.of(nn.Conv2d(3, 5, 3), 3) for _ in range(2)]
    pinned = weight_grid(layers[0].weight * 0.7, 3, layers[0].bias)
    layers[0].fix_grid(pinned)
    state = layers[0].state_dict()
    layers[1].load_state_dict(state)
    assert torch.equal(layers[1].low_bit_weight(), layers[0].low_bit_weight())
    assert layers[1].grid().high == pinned.high and torch.equal(layers[1].grid().scale, pinned.scale)
    live = {name: state[name] for name in ("weight", "bias")}
    layers[1].load_state_dict(live)
    assert layers[1].fixed is None and layers[1].state_dict().keys() == live.keys()


def test_a_pinned_grid_and_the_scales_move_with_the_weight() -> None:
    layer = QuantConv2d.of(nn.Conv2d(3, 5, 3), 3)
    layer.fix_grid(layer.grid())
    layer.input_scale, layer.output_scale = torch.ones(5), torch.ones(5)
    moved = nn.Sequential(layer).to("meta")[0]
    assert isinstance(moved, QuantConv2d) and moved.fixed is not None
    for tensor in (moved.fixed.scale, moved.fixed.zero_point, moved.input_scale, moved.output_scale):
        assert tensor is not None and tensor.device.type == "meta"
