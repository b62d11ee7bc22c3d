"""Which of its two neighbours on the grid each weight goes to, so that the layer's outputs change least.

`squant`: SQuant (Guo et al., ICLR 2022, arXiv 2202.07471, algorithms 1 to 4). Without data. Neighbouring
inputs of a layer are much alike, so an output's error is about the sum of its weights' errors: the
rounding errors of every kernel and of every output channel are made to cancel.

`gptq`: Frantar et al., ICLR 2023 (arXiv 2210.17323), which is Optimal Brain Compression (arXiv 2208.11580)
in a fixed order. With H the second moments of the layer's inputs, columns are rounded one after the
other, and what a column's error does to the outputs is taken up by the columns still to come.

Shapes: G groups, O output channels (of a group), I input channels, K kernel elements, D = I · K.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.fake_quant.affine import Grid

_BLOCK = 64


def squant(position_OIK: Tensor, low: int, high: int) -> Tensor:
    """Codes (float, whole numbers) for weights at `position_OIK` = w / scale + zero_point.

    Every code is the floor or the ceiling of its weight, or the nearer end of the grid. The errors of a
    channel sum to at most .5, those of a kernel too, or to at most 1 where the channel needed one of its
    elements. (As far as a channel has elements enough: those beyond the grid's ends stay there.)
    """
    codes = position_OIK.round().clamp(low, high)
    channels, kernels, size = codes.shape
    free = (position_OIK >= low) & (position_OIK <= high)
    if size > 1:
        flat = codes.view(-1, size)
        flips = _flips(flat - position_OIK.reshape(-1, size), free.view(-1, size))
        codes = (flat - flips).view(channels, kernels, size)
    error_OIK = codes - position_OIK
    sums_OI = error_OIK.sum(2)
    # Of each kernel the one element that takes most of its sum away; only whole steps towards the other
    # neighbour are allowed, so a weight that was flipped is flipped back at most.
    towards_OIK = (error_OIK * sums_OI.sign()[:, :, None]).masked_fill(~free, -torch.inf)
    candidate_OI = towards_OIK.argmax(2, keepdim=True)
    able_OI = towards_OIK.amax(2) > 0
    flips_OI = _flips(sums_OI, able_OI)
    return codes.scatter_add(2, candidate_OI, -flips_OI[:, :, None])


def _flips(error_RM: Tensor, able_RM: Tensor) -> Tensor:
    """What to subtract, -1, 0 or 1, from each element of a row, so that the row's errors sum to at most .5.

    The elements with the largest errors of the sum's own sign are moved, round(|sum|) of them.
    """
    total_R1 = error_RM.sum(1, keepdim=True)
    sign_R1 = total_R1.sign()
    key_RM = (error_RM * sign_R1).masked_fill(~able_RM, -torch.inf)
    rank_RM = key_RM.argsort(dim=1, descending=True).argsort(dim=1)
    moved_RM = (rank_RM < total_R1.abs().round()) & (key_RM > 0)
    return moved_RM * sign_R1


def gptq(w_GOD: Tensor, grid: Grid, hessian_GDD: Tensor, check: Callable[[], None] = lambda: None) -> Tensor:
    """Codes (float, whole numbers) [G, O, D]; the grid has one row for each of the G · O channels.

    `hessian_GDD` is positive definite: second moments of the inputs plus something on the diagonal.
    Columns of large second moment come first. `check` is called now and then, and may raise to stop.
    """
    groups, _, width = w_GOD.shape
    scale_GO, zero_GO = grid.scale.view(groups, -1), grid.zero_point.view(groups, -1)
    order_GD = hessian_GDD.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    columns_GOD = order_GD[:, None, :].expand_as(w_GOD)
    left_GOD = w_GOD.gather(2, columns_GOD)
    ordered = hessian_GDD.gather(1, order_GD[:, :, None].expand_as(hessian_GDD))
    ordered = ordered.gather(2, order_GD[:, None, :].expand_as(ordered))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor_GDD = torch.linalg.cholesky(inverse, upper=True)
    # Row j is what one unit of column j's error asks of the columns behind it.
    factor_GDD = factor_GDD / factor_GDD.diagonal(dim1=1, dim2=2)[:, :, None]
    codes_GOD = torch.empty_like(left_GOD)
    for start in range(0, width, _BLOCK):
        check()
        end = min(start + _BLOCK, width)
        errors_GOB = torch.empty_like(left_GOD[:, :, start:end])
        for j in range(start, end):
            column_GO = left_GOD[:, :, j]
            codes_GO = ((column_GO / scale_GO).round_() + zero_GO).clamp_(grid.low, grid.high)
            error_GO = column_GO - (codes_GO - zero_GO) * scale_GO
            codes_GOD[:, :, j], errors_GOB[:, :, j - start] = codes_GO, error_GO
            left_GOD[:, :, j:end] -= error_GO[:, :, None] * factor_GDD[:, None, j, j:end]
        left_GOD[:, :, end:] -= errors_GOB @ factor_GDD[:, start:end, end:]
    return torch.empty_like(codes_GOD).scatter_(2, columns_GOD, codes_GOD)
