"""Attention between a map's pixels in time linear in their number, by a series of the exponential.

Let x_i be the pixels, vectors of C channels, m their mean and d_i = x_i − m. Since softmax does not see
what a row has in common,

    Σ_j softmax_j(x_i · x_j) x_j  =  m + N(d_i) / Z(d_i)
    Z(d) = Σ_j w_j exp(d · d_j)      N(d) = Σ_j w_j exp(d · d_j) d_j      w_j = exp(m · d_j)

exactly. Pixels of unit length are close to their mean, so that exp(s) ≈ 1 + s + s²/2 up to s³/6: Z and N
become polynomials in d, whose coefficients are moments of the pixels up to the third order, some C³/2
numbers in place of the P × P map. Gradients hold m constant, as the exact form does not depend on it.

Shapes: B maps, C channels, P pixels; F features of a pixel d: 1, its channels, and their products of two,
that of the channels c and c + k (mod C) for k = 0 … C/2 at place k·C + c; V = 1 + C values: w, w·d.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def feature_count(channels: int) -> int:
    """F: what a pixel costs, where it costs P · C without the series."""
    return 1 + channels + (channels // 2 + 1) * channels


class SeriesAttention(torch.autograd.Function):
    """apply(x_BCP): what every pixel gets from its attention over all pixels, [B, C, P]."""

    @staticmethod
    def forward(ctx: Any, x_BCP: Tensor) -> Tensor:
        m_BC1 = x_BCP.mean(2, keepdim=True)
        d_BCP = x_BCP - m_BC1
        w_B1P = (m_BC1.transpose(1, 2) @ d_BCP).exp_()
        f_BFP = _features(d_BCP)
        v_BVP = torch.cat([w_B1P, w_B1P * d_BCP], 1)
        moments_BVF = (v_BVP @ f_BFP.transpose(1, 2)).mul_(_taylor(d_BCP.shape[1], x_BCP.device))
        z_B1P, n_BCP = (moments_BVF @ f_BFP).tensor_split([1], 1)
        mixed_BCP = n_BCP / z_B1P
        ctx.save_for_backward(m_BC1, d_BCP, w_B1P, f_BFP, moments_BVF, z_B1P, mixed_BCP)
        return mixed_BCP + m_BC1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCP: Tensor) -> Tensor:
        m_BC1, d_BCP, w_B1P, f_BFP, moments_BVF, z_B1P, mixed_BCP = ctx.saved_tensors
        dn_BCP = grad_BCP / z_B1P
        dz_B1P = (dn_BCP * mixed_BCP).sum(1, keepdim=True).neg_()
        # The pixel as the one that looks: Z and N at d.
        looks_BCP: Tensor = moments_BVF[:, 1:] @ _features_along(d_BCP, dn_BCP, dz_B1P)
        # As one that is looked at: w times a cubic polynomial of d, from the moments that it is part of.
        dmoments_BVF = torch.cat([dz_B1P, dn_BCP], 1) @ f_BFP.transpose(1, 2)
        rest_B1P, slope_BCP = (_cubic(dmoments_BVF) @ f_BFP).tensor_split([1], 1)
        dw_B1P = rest_B1P + (d_BCP * slope_BCP).sum(1, keepdim=True) / 3
        return looks_BCP.addcmul_(w_B1P, slope_BCP.addcmul_(dw_B1P, m_BC1))


def _features(d_BCP: Tensor) -> Tensor:
    """[B, F, P]"""
    batch, channels, pixels = d_BCP.shape
    f_BFP = d_BCP.new_empty(batch, feature_count(channels), pixels)
    f_BFP[:, :1] = 1.0
    f_BFP[:, 1 : channels + 1] = d_BCP
    torch.mul(d_BCP.unsqueeze(1), _rolled(d_BCP), out=f_BFP[:, channels + 1 :].unflatten(1, (-1, channels)))
    return f_BFP


def _features_along(d_BCP: Tensor, dn_BCP: Tensor, dz_B1P: Tensor) -> Tensor:
    """[B, F, P]: what the gradients of N and Z multiply the moments with. Z has one order less than N."""
    batch, channels, pixels = d_BCP.shape
    f_BFP = d_BCP.new_empty(batch, feature_count(channels), pixels)
    f_BFP[:, :1] = dz_B1P
    f_BFP[:, 1 : channels + 1] = torch.addcmul(dn_BCP, dz_B1P, d_BCP)
    products = f_BFP[:, channels + 1 :].unflatten(1, (-1, channels))
    torch.mul(dn_BCP.unsqueeze(1), _rolled(d_BCP), out=products)
    products.addcmul_(d_BCP.unsqueeze(1), _rolled(dn_BCP))
    return f_BFP


def _rolled(x_BCP: Tensor) -> Tensor:
    """[B, C // 2 + 1, C, P]: the channels from k on, around the end, for each k."""
    channels = x_BCP.shape[1]
    return torch.cat([x_BCP, x_BCP[:, : channels // 2]], 1).unfold(1, channels, 1).transpose(2, 3)


def _cubic(g_BVF: Tensor) -> Tensor:
    """The gradient of the moments as polynomials h of the pixels, over the features [B, V, F].

    With w·h(d) what the pixel adds to the loss through the moments: rows 1 … C are ∇h, row 0 is the rest of
    h = rest + d · ∇h / 3 (Euler: a third of ∇h's constant part is missing of it, and so on).
    """
    channels = g_BVF.shape[1] - 1
    place_CC, pair_Q = _places(channels, g_BVF.device)
    taylor_F = _taylor(channels, g_BVF.device)
    products_BVCC = 0.5 * g_BVF[:, :, channels + 1 :][:, :, place_CC]
    line_BC = g_BVF[:, 0, 1 : channels + 1] + g_BVF[:, 1:, 0]
    square_BCC = g_BVF[:, 1:, 1 : channels + 1] + products_BVCC[:, 0]
    square_BCC = square_BCC + square_BCC.transpose(1, 2)
    cube_BCCC = products_BVCC[:, 1:]
    cube_BCCC = cube_BCCC + cube_BCCC.transpose(1, 2) + cube_BCCC.permute(0, 3, 2, 1)
    h_BVF = torch.empty_like(g_BVF)
    h_BVF[:, 0, 0] = g_BVF[:, 0, 0]
    h_BVF[:, 0, 1 : channels + 1] = line_BC * (2 / 3)
    h_BVF[:, 0, channels + 1 :] = square_BCC.flatten(1)[:, pair_Q] * (1 / 6)
    h_BVF[:, 1:, 0] = line_BC
    h_BVF[:, 1:, 1 : channels + 1] = square_BCC
    h_BVF[:, 1:, channels + 1 :] = cube_BCCC.flatten(2)[:, :, pair_Q]
    h_BVF[:, :, channels + 1 :] *= 2 * taylor_F[channels + 1 :]
    return h_BVF


@cache
def _taylor(channels: int, device: torch.device) -> Tensor:
    """[F]: a feature's factor in exp(d · d_j), where a product of two different channels stands twice.

    With an even number of channels, those half of them apart are listed twice already.
    """
    factors = torch.ones(feature_count(channels))
    factors[channels + 1 : 2 * channels + 1] = 0.5
    if channels % 2 == 0:
        factors[-channels:] = 0.5
    return factors.to(device)


@cache
def _places(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where among the products that of channels b and c stands [C, C]; which b·C + c each product has."""
    distance, first = torch.meshgrid(torch.arange(channels // 2 + 1), torch.arange(channels), indexing="ij")
    second = (first + distance) % channels
    place_CC = torch.empty(channels, channels, dtype=torch.long)
    places = torch.arange(first.numel()).view_as(first)
    place_CC[first, second] = places
    place_CC[second, first] = places
    return place_CC.to(device), (first * channels + second).flatten().to(device)
