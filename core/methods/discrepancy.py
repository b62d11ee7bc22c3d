"""How ZAQ (arXiv 2103.15263) measures the distance between teacher's and student's feature maps.

`scrm`, what the authors' code computes. With X = each pixel's channels scaled to unit length, a map
[C, HW], and Y the same of the student:

    spatial(X) = .1 * X softmax_rows(X^T X)^T + X             attention between pixels
    channel(X) = .1 * softmax_rows(rowmax(X X^T) - X X^T) X + X   attention between channels
    D = sum over layers of  mean|spatial(X) - spatial(Y)| + mean|channel(X) - channel(Y)|

`crm`, what the paper describes: with X = each channel's pixels scaled to unit length, the channel
relation map is the matrix of cosines X X^T [C, C];

    D = sum over layers l of  weight_l * mean|X X^T - Y Y^T|

Deviations: the spatial attention is scaled_dot_product_attention with queries = keys = values, whose
flash kernels never hold the HW x HW map (1 GiB a map at batch 256 and 32 x 32). Pixels are scaled by
1 / max(length, 1e-3); the original's 1e-12 turns a pixel whose channels the student quantized to
zero into a gradient of 1e12, which is why that code diverges at four bits.

Shapes: B images, C channels, P = H * W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-3
ATTENTION_SHARE = 0.1

Discrepancy = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def scrm(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Scalar. Both are lists of feature maps [B, C, H, W], one a layer, of equal shapes."""
    terms = []
    for t_BCHW, s_BCHW in zip(teacher, student, strict=True):
        t_BCP, s_BCP = unit_pixels(t_BCHW), unit_pixels(s_BCHW)
        terms.append(F.l1_loss(spatial_attention(s_BCP), spatial_attention(t_BCP)))
        terms.append(F.l1_loss(channel_attention(s_BCP), channel_attention(t_BCP)))
    return torch.stack(terms).sum()


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


def unit_pixels(x_BCHW: Tensor) -> Tensor:
    """[B, C, P]: every pixel's channel vector at length 1; shorter than `EPS` stays short."""
    return F.normalize(x_BCHW.flatten(2), dim=1, eps=EPS)


def spatial_attention(x_BCP: Tensor) -> Tensor:
    """[B, C, P]: every pixel plus a tenth of its attention over all pixels."""
    pixels_B1PC = x_BCP.transpose(1, 2).unsqueeze(1).contiguous()
    mixed_B1PC = F.scaled_dot_product_attention(pixels_B1PC, pixels_B1PC, pixels_B1PC, scale=1.0)
    return ATTENTION_SHARE * mixed_B1PC.squeeze(1).transpose(1, 2) + x_BCP


def channel_attention(x_BCP: Tensor) -> Tensor:
    """[B, C, P]: every channel plus a tenth of its attention over the channels least like it."""
    energy_BCC = x_BCP @ x_BCP.transpose(1, 2)
    attention_BCC = (energy_BCC.amax(dim=-1, keepdim=True) - energy_BCC).softmax(dim=-1)
    return ATTENTION_SHARE * (attention_BCC @ x_BCP) + x_BCP


def channel_cosines(x_BCHW: Tensor) -> Tensor:
    """[B, C, C]: the cosine between every two channels of an image."""
    x_BCP = F.normalize(x_BCHW.flatten(2), dim=2, eps=EPS)
    return x_BCP @ x_BCP.transpose(1, 2)


DISCREPANCIES: Mapping[str, Discrepancy] = {"scrm": scrm, "crm": crm}
