"""Accuracy with its uncertainty, agreement of two networks, signal-to-quantization-noise.

Shapes: N images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`correct` of `total` images; `top1` and `top5` in percent; `ci95` is top-1's Wilson interval.

    `top5` is None for networks with fewer than six classes, where it says nothing.
    """

    correct: int
    total: int
    top1: float
    top5: float | None
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "correct": self.correct,
            "total": self.total,
            "top1": round(self.top1, 4),
            "top5": None if self.top5 is None else round(self.top5, 4),
            "ci95": [round(bound, 4) for bound in self.ci95],
        }


def measure(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Accuracy, Tensor]:
    """Runs `predict` (x_NCHW -> logits_NK) over the batches; returns the accuracy and every top-1 class.

    Of equal logits the first class wins, as with argmax in numpy and ONNX Runtime. An image whose
    logits hold NaN is wrong, its prediction is -1. Raises ValueError when there are no images.
    """
    ranks: list[Tensor] = []
    predictions: list[Tensor] = []
    classes = 0
    for x_NCHW, y_N in batches:
        with torch.no_grad():
            logits_NK = predict(x_NCHW).detach().float().cpu()
        classes = logits_NK.shape[1]
        broken_N = logits_NK.isnan().any(dim=1)
        ranks.append(_ranks(logits_NK, y_N).masked_fill(broken_N, classes))
        predictions.append(logits_NK.argmax(dim=1).masked_fill(broken_N, -1))
    if not ranks:
        raise ValueError("there are no images to measure on")
    rank_N = torch.cat(ranks)
    total, correct = rank_N.numel(), int((rank_N == 0).sum())
    top5 = 100 * float((rank_N < 5).double().mean()) if classes >= 6 else None
    accuracy = Accuracy(correct, total, 100 * correct / total, top5, wilson95(correct, total))
    return accuracy, torch.cat(predictions)


def wilson95(correct: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion, in percent (Wilson 1927, JASA 22:209-212)."""
    share, spread = correct / total, _Z95**2 / total
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # At the ends the interval touches 0 or 100 exactly; rounding must not push it past.
    low = 0.0 if correct == 0 else 100 * (center - half)
    high = 100.0 if correct == total else 100 * (center + half)
    return low, high


def agreement(predictions_N: Tensor, others_N: Tensor) -> float:
    """Share of images, in percent, for which two networks name the same class."""
    if predictions_N.shape != others_N.shape or not predictions_N.numel():
        raise ValueError(
            f"cannot compare {tuple(predictions_N.shape)} with {tuple(others_N.shape)} predictions"
        )
    return 100 * float((predictions_N == others_N).double().mean())


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Signal-to-quantization-noise ratio, 10 log10(sum r² / sum (r - a)²), in decibels.

    Infinite where the two are equal; minus infinite where the reference is zero and the other is not.
    """
    reference, approximation = reference.double(), approximation.double()
    signal = float(reference.square().sum())
    return decibels(signal, float((reference - approximation).square().sum()))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; infinite without noise, else minus infinite for no signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _ranks(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """How many classes stand before the true one."""
    y_N1 = y_N.long().unsqueeze(1)
    true_N1 = logits_NK.gather(1, y_N1)
    index_1K = torch.arange(logits_NK.shape[1]).unsqueeze(0)
    before_NK = (logits_NK > true_N1) | ((logits_NK == true_N1) & (index_1K < y_N1))
    return before_NK.sum(dim=1)
