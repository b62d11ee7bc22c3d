"""How ZAQ (arXiv 2103.15263) measures the distance between teacher's and student's feature maps.

`scrm`, what the authors' code computes. With X = each pixel's channels scaled to unit length, a map
[C, HW], and Y the same of the student:

    spatial(X) = .1 * X softmax_rows(X^T X)^T + X             attention between pixels
    channel(X) = .1 * softmax_rows(rowmax(X X^T) - X X^T) X + X   attention between channels
    D = sum over layers of  mean|spatial(X) - spatial(Y)| + mean|channel(X) - channel(Y)|

`crm`, what the paper describes: with X = each channel's pixels scaled to unit length, the channel
relation map is the matrix of cosines X X^T [C, C];

    D = sum over layers l of  weight_l * mean|X X^T - Y Y^T|

Deviations: the HW x HW map (1 GiB of them at batch 256 and 32 x 32) is never held. Large maps of few
channels take a series of the exponential (`core.methods.attention`), others
scaled_dot_product_attention with queries = keys = values. Pixels are scaled by
1 / max(length, 1e-3); the original's 1e-12 turns a pixel whose channels the student quantized to
zero into a gradient of 1e12, which is why that code diverges at four bits.

Shapes: B images, C channels, P = H * W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from core.methods.attention import SeriesAttention, feature_count

EPS = 1e-3
ATTENTION_SHARE = 0.1
_CACHED = 1 << 17  # elements of a map that are worked on at a time

Discrepancy = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def scrm(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Scalar. Both are lists of feature maps [B, C, H, W], one a layer, of equal shapes.

    Differentiable once.
    """
    return torch.stack([_FewMaps.apply(t, s) for t, s in zip(teacher, student, strict=True)]).sum()


def _attention_distance(t_BCP: Tensor, s_BCP: Tensor) -> Tensor:
    """The mean over images of both differences."""
    t_BCP, s_BCP = unit_pixels(t_BCP), unit_pixels(s_BCP)
    spatial = F.l1_loss(spatial_attention(s_BCP), spatial_attention(t_BCP))
    return spatial + F.l1_loss(channel_attention(s_BCP), channel_attention(t_BCP))


class _FewMaps(torch.autograd.Function):
    """apply(t_BCHW, s_BCHW): one layer's distance, a mean over images, with its gradients found alongside.

    A few images at a time from the first operator to the last, so that what they need stays in the cache
    of a CPU, and nothing but the gradients is kept of the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, *maps_BCHW: Tensor) -> Tensor:
        asks = ctx.needs_input_grad
        grads = [torch.empty_like(x) if asked else None for x, asked in zip(maps_BCHW, asks, strict=True)]
        total = maps_BCHW[0].new_zeros(())
        for few in _slices(maps_BCHW[0]):
            inputs = [x[few].detach().flatten(2).contiguous() for x in maps_BCHW]
            wanted = [x.requires_grad_() for x, asked in zip(inputs, asks, strict=True) if asked]
            with torch.set_grad_enabled(bool(wanted)):
                loss = _attention_distance(*inputs) * (len(inputs[0]) / len(maps_BCHW[0]))
            total += loss.detach()
            found = iter(torch.autograd.grad(loss, wanted) if wanted else ())
            for grad in grads:
                if grad is not None:
                    grad[few].flatten(2).copy_(next(found))
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if saved is None else saved * grad for saved in ctx.saved_tensors)


def _slices(x_BCHW: Tensor) -> Iterator[slice]:
    """An accelerator gets all images at once: it waits for launches, not for memory."""
    images = len(x_BCHW)
    few = max(1, _CACHED // x_BCHW[0].numel()) if x_BCHW.device.type == "cpu" else images
    return (slice(first, first + few) for first in range(0, images, few))


def crm(
    teacher: Sequence[Tensor], student: Sequence[Tensor], weights: Sequence[float] | None = None
) -> Tensor:
    """Scalar. As `scrm`; `weights` holds one factor a layer, all 1 when absent."""
    factors = weights if weights is not None else [1.0] * len(teacher)
    terms = [
        factor * F.l1_loss(channel_cosines(s_BCHW), channel_cosines(t_BCHW))
        for t_BCHW, s_BCHW, factor in zip(teacher, student, factors, strict=True)
    ]
    return torch.stack(terms).sum()


def unit_pixels(x_BCP: Tensor) -> Tensor:
    """Every pixel's channel vector at length 1; shorter than `EPS` stays short."""
    return x_BCP * x_BCP.square().sum(1, keepdim=True).clamp(min=EPS**2).rsqrt()


def spatial_attention(x_BCP: Tensor) -> Tensor:
    """[B, C, P]: every pixel plus a tenth of its attention over all pixels."""
    channels, pixels = x_BCP.shape[1:]
    if 2 * feature_count(channels) <= pixels:
        mixed_BCP: Tensor = SeriesAttention.apply(x_BCP)
    else:
        pixels_B1PC = x_BCP.transpose(1, 2).unsqueeze(1).contiguous()
        mixed_B1PC = F.scaled_dot_product_attention(pixels_B1PC, pixels_B1PC, pixels_B1PC, scale=1.0)
        mixed_BCP = mixed_B1PC.squeeze(1).transpose(1, 2)
    return torch.add(x_BCP, mixed_BCP, alpha=ATTENTION_SHARE)


def channel_attention(x_BCP: Tensor) -> Tensor:
    """[B, C, P]: every channel plus a tenth of its attention over the channels least like it."""
    energy_BCC = x_BCP @ x_BCP.transpose(1, 2)
    attention_BCC = energy_BCC.neg().softmax(dim=-1)  # which the row's maximum would not change
    return torch.baddbmm(x_BCP, attention_BCC, x_BCP, alpha=ATTENTION_SHARE)


def channel_cosines(x_BCHW: Tensor) -> Tensor:
    """[B, C, C]: the cosine between every two channels of an image."""
    x_BCP = F.normalize(x_BCHW.flatten(2), dim=2, eps=EPS)
    return x_BCP @ x_BCP.transpose(1, 2)


DISCREPANCIES: Mapping[str, Discrepancy] = {"scrm": scrm, "crm": crm}
