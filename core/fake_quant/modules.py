"""The student's layers: convolutions and linear layers on low-bit weights, and activation quantizers."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import Diverged
from core.fake_quant.affine import (
    SMALLEST_SCALE,
    Grid,
    fake_quantize,
    signed_grid,
    symmetric_grid,
    unsigned_grid,
    weight_grid,
)
from core.fake_quant.observers import Observer

_SCALE, _ZERO_POINT = "weight_scale", "weight_zero_point"
LARGEST_BIAS = 2.0**31 - 1  # steps, as int32 holds them


class LowBitWeight:
    """What QuantConv2d and QuantLinear share: a weight and a bias read through their grids.

    The weight's grid follows the live weight, min-max per output channel, until `fix_grid` pins it;
    `symmetric` grids have zero-point 0.
    Equalization (`core.methods.equalization`) may have multiplied the layer's inputs and outputs by
    `input_scale` and `output_scale`, [O], to which its weight is fitted.
    `reads` is the quantizer whose codes the layer reads (none where it reads a float tensor; the
    last one where the layer runs more than once).
    """

    weight: Tensor
    bias: Any  # Tensor | None, which torch declares differently for the two kinds of layer
    bits: int
    bias_bits: int
    symmetric: bool
    fixed: Grid | None
    reads: ActivationQuantizer | None
    input_scale: Tensor | None = None
    output_scale: Tensor | None = None

    def grid(self) -> Grid:
        if self.fixed is not None:
            return self.fixed
        return weight_grid(self.weight, self.bits, self.bias, symmetric=self.symmetric)

    def fix_grid(self, grid: Grid | None) -> None:
        """Pins the grid (scale and zero-point [O]); None lets it follow the weight again."""
        self.fixed = grid

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """The grid and the scales move with the weight."""
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        if self.fixed is not None:
            scale, zero_point = fn(self.fixed.scale), fn(self.fixed.zero_point)
            self.fixed = Grid(scale, zero_point, self.fixed.low, self.fixed.high)
        self.input_scale, self.output_scale = (
            None if scale is None else fn(scale) for scale in (self.input_scale, self.output_scale)
        )
        return result

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """A pinned grid is part of the state, as `weight_scale` and `weight_zero_point` [O]."""
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        if self.fixed is not None:
            destination[prefix + _SCALE] = self.fixed.scale.detach()
            destination[prefix + _ZERO_POINT] = self.fixed.zero_point.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        scale, zero_point = (state_dict.pop(prefix + name, None) for name in (_SCALE, _ZERO_POINT))
        super()._load_from_state_dict(state_dict, prefix, *others)  # type: ignore[misc]
        self.fix_grid(None)
        if scale is not None and zero_point is not None:
            low, high = self.grid().low, self.grid().high
            self.fix_grid(Grid(scale.to(self.weight), zero_point.to(self.weight), low, high))

    def low_bit_weight(self, grid: Grid | None = None) -> Tensor:
        return fake_quantize(self.weight, grid or self.grid())

    def unscaled_weight(self) -> Tensor:
        """The rounded weight as it would be without equalization, beside the teacher's."""
        weight = self.low_bit_weight()
        for scale, inverse in ((self.input_scale, False), (self.output_scale, True)):
            if scale is not None:
                column = scale.to(weight).view(-1, *[1] * (weight.dim() - 1))
                weight = weight / column if inverse else weight * column
        return weight

    def low_bit_bias(self, grid: Grid | None = None) -> Tensor | None:
        """The bias as the integer kernel adds it: in whole steps of input scale × weight scale.

        The step is fine at 8 bits and coarse at 4: left out, it is what student and file differ by most.
        Fewer than 32 bits round the bias to its own symmetric grid first.
        """
        if self.bias is None:
            return None
        bias: Tensor = self.bias
        if self.bias_bits < 32:
            bias = _round_ste(bias, symmetric_grid(bias.detach().abs().max(), self.bias_bits).scale)
        if self.reads is None:
            return bias
        # Chosen by a tensor, since asking for the flag would make an accelerator wait for every layer.
        rounded = _round_ste(bias, self.bias_step(grid), limit=LARGEST_BIAS)
        return torch.where(self.reads.calibrated, rounded, bias)

    def bias_step(self, grid: Grid | None = None) -> Tensor:
        """Input scale × weight scale, shape [O]."""
        assert self.reads is not None
        step: Tensor = self.reads.scale.detach() * (grid or self.grid()).scale
        return step

    def low_bit(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias through one look at the grid, which would otherwise be found for each anew."""
        grid = self.grid()
        return self.low_bit_weight(grid), self.low_bit_bias(grid)


class QuantConv2d(LowBitWeight, nn.Conv2d):
    """A convolution whose weight [O, I/groups, kH, kW] is rounded to `bits` bits at every forward."""

    @classmethod
    def of(cls, layer: nn.Conv2d, bits: int, bias_bits: int = 32, *, symmetric: bool = False) -> QuantConv2d:
        new = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            device="meta",
        )
        _adopt(new, layer, bits, bias_bits, symmetric)
        return new

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self._conv_forward(input, *self.low_bit())
        return result


class QuantLinear(LowBitWeight, nn.Linear):
    """A linear layer whose weight [O, I] is rounded to `bits` bits at every forward."""

    @classmethod
    def of(cls, layer: nn.Linear, bits: int, bias_bits: int = 32, *, symmetric: bool = False) -> QuantLinear:
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        _adopt(new, layer, bits, bias_bits, symmetric)
        return new

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, *self.low_bit())


def _adopt(
    new: QuantConv2d | QuantLinear,
    layer: nn.Conv2d | nn.Linear,
    bits: int,
    bias_bits: int,
    symmetric: bool,
) -> None:
    new.weight = nn.Parameter(layer.weight.detach().clone())
    new.register_parameter("bias", None if layer.bias is None else nn.Parameter(layer.bias.detach().clone()))
    new.bits, new.bias_bits, new.symmetric, new.fixed = bits, bias_bits, symmetric, None
    listen(new, None)


def listen(layer: QuantConv2d | QuantLinear, quantizer: ActivationQuantizer | None) -> None:
    """Tells the layer whose codes it reads, without making the quantizer a part of it."""
    layer.__dict__["reads"] = quantizer


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to a grid of `bits` bits, one scale and zero-point for the tensor.

    Codes are unsigned with any zero-point, or `signed` with zero-point 0.
    States: observing (an observer sets the range from each batch), frozen, or learning, where the
    scale is trained by the LSQ gradient (Esser et al., arXiv 1902.08153, equation 3) while the
    zero-point stays. `ceiling` is the largest value the range may cover: 6 behind a ReLU6.
    """

    scale: nn.Parameter
    zero_point: Tensor
    calibrated: Tensor

    def __init__(self, bits: int, ceiling: float | None = None, *, signed: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.signed = signed
        self.ceiling = ceiling
        self.observer: Observer | None = None
        self.enabled = True
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.register_buffer("zero_point", torch.zeros(()))
        self.register_buffer("calibrated", torch.tensor(False))

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return self.low + (1 << self.bits) - 1

    def grid(self) -> Grid:
        return Grid(self.scale.detach(), self.zero_point, self.low, self.high)

    def grid_of(self, low: Tensor, high: Tensor) -> Grid:
        """The grid that covers a range."""
        return (signed_grid if self.signed else unsigned_grid)(low, high, self.bits)

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        if not bool(low.isfinite() & high.isfinite()):
            raise Diverged("The network's activations are not finite; no range can hold them.")
        if self.ceiling is not None:
            high = high.clamp(max=self.ceiling)
        grid = self.grid_of(low, high)
        self.scale.copy_(grid.scale)
        self.zero_point.copy_(grid.zero_point)
        self.calibrated.fill_(True)

    @torch.no_grad()
    def constrain(self) -> None:
        """Brings a learned scale back to where it may be."""
        largest = self.ceiling / self.high if self.ceiling is not None else None
        self.scale.clamp_(min=SMALLEST_SCALE, max=largest)

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.set_range(*self.observer(x.detach(), self.grid_of))
        if not self.enabled:
            return x
        grid = Grid(self.scale, self.zero_point, self.low, self.high)
        learns = self.scale.requires_grad
        return fake_quantize(x, grid, (x.numel() / x.shape[0] * self.high) ** -0.5 if learns else 0.0)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, scale={float(self.scale):.4g}, zero_point={int(self.zero_point)}"


def _round_ste(x: Tensor, step: Tensor, limit: float = inf) -> Tensor:
    """x in whole steps, at most `limit` of them; the gradient passes as if nothing had been rounded."""
    rounded = torch.round(x.detach() / step).clamp(-limit, limit) * step
    return x + (rounded - x.detach())
