"""Accuracy, its interval, agreement and SQNR against values known from elsewhere."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.evaluate.metrics import agreement, measure, sqnr_db, wilson95


def batches(
    logits_NK: torch.Tensor, y_N: list[int], size: int = 2
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits travel as images, so that `predict` is the identity."""
    y = torch.tensor(y_N)
    return [(logits_NK[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857-872, table I, score method.
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
        (20, 20, 83.89, 100.0),
    ],
)
def test_wilsons_interval_is_the_published_one(correct: int, total: int, low: float, high: float) -> None:
    assert wilson95(correct, total) == pytest.approx((low, high), abs=0.005)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilsons_interval_holds_the_share_and_stays_within_0_and_100(total: int, share: float) -> None:
    correct = round(share * total)
    low, high = wilson95(correct, total)
    assert 0 <= low <= 100 * correct / total <= high <= 100


def test_accuracy_counts_top1_and_top5() -> None:
    logits_NK = torch.eye(8) + torch.arange(8) / 100  # each image: its own class, then 7, 6, 5, …
    accuracy, predictions_N = measure(lambda x: x, batches(logits_NK, [0, 1, 2, 7, 7, 7, 3, 0]))
    assert predictions_N.tolist() == list(range(8))
    assert (accuracy.correct, accuracy.total, accuracy.top1) == (3, 8, 37.5)
    # Image 6 ranks 6, 7, 5, 4, 3; image 7 ranks 7, 6, 5, 4, 3, and its true class 0 comes last.
    assert accuracy.top5 == 87.5
    assert accuracy.ci95 == wilson95(3, 8)
    assert accuracy.to_json()["ci95"] == [round(bound, 4) for bound in wilson95(3, 8)]


def test_top5_is_absent_for_few_classes() -> None:
    assert measure(lambda x: x, batches(torch.eye(5), [0, 1, 2, 3, 4]))[0].top5 is None
    assert measure(lambda x: x, batches(torch.eye(6), [0, 1, 2, 3, 4, 5]))[0].top5 == 100.0


def test_of_equal_logits_the_first_class_wins_as_in_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NK = torch.randint(0, 3, (200, 10), generator=generator).float()
    y_N = torch.randint(0, 10, (200,), generator=generator).tolist()
    accuracy, predictions_N = measure(lambda x: x, batches(logits_NK, y_N, 7))
    assert predictions_N.tolist() == logits_NK.numpy().argmax(1).tolist()
    assert accuracy.correct == int((predictions_N == torch.tensor(y_N)).sum())


def test_logits_that_are_not_numbers_are_wrong() -> None:
    logits_NK = torch.full((2, 3), math.nan)
    accuracy, predictions_N = measure(lambda x: x, batches(logits_NK, [0, 0]))
    assert accuracy.correct == 0 and predictions_N.tolist() == [-1, -1]


def test_nothing_to_measure_on() -> None:
    with pytest.raises(ValueError, match="no images"):
        measure(lambda x: x, [])


def test_agreement() -> None:
    a, b = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0])
    assert agreement(a, b) == 75.0
    with pytest.raises(ValueError, match="compare"):
        agreement(a, b[:3])


def test_sqnr() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(reference, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf


def test_each_bit_of_a_uniform_quantizer_is_worth_six_decibels() -> None:
    signal = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 100_000))
    found = [sqnr_db(signal, torch.round(signal * 2 ** (b - 1)) / 2 ** (b - 1)) for b in (6, 7, 8)]
    assert [b - a for a, b in pairwise(found)] == pytest.approx([6.02, 6.02], abs=0.1)
