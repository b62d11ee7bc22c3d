"""Reduced precision is for networks it makes faster, and costs distillation nothing that float32 can see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.context import RunContext
from core.synthesis import precision
from core.synthesis.distill import distill
from core.synthesis.precision import reduced_precision
from core.synthesis.statistics import BatchNormStatistics
from tests.core.synthesis.test_distill import trained_network

CPU = torch.device("cpu")


def result_type(network: nn.Module, device: torch.device = CPU) -> torch.dtype:
    with reduced_precision(network, device):
        result: torch.Tensor = network(torch.randn(1, 4, 8, 8))
    return result.dtype


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_for_processors_that_have_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_native_bfloat16", lambda: native)
    assert result_type(nn.Conv2d(4, 4, 3)) == (torch.bfloat16 if native else torch.float32)


def test_depthwise_networks_and_other_devices_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_native_bfloat16", lambda: True)
    assert result_type(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))) == torch.float32
    assert result_type(nn.Conv2d(4, 4, 3, groups=2)) == torch.bfloat16
    assert result_type(nn.Conv2d(4, 4, 3), torch.device("cuda")) == torch.float32


def test_images_end_as_close_to_the_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained_network()
    distances = []
    for native in (True, False):
        monkeypatch.setattr(precision, "_native_bfloat16", lambda native=native: native)
        context = RunContext(tmp_path)
        made = distill(network, (3, 12, 12), images=16, iterations=60, context=context, batch_size=16)
        with torch.no_grad(), BatchNormStatistics(network) as statistics:
            network(made.images)  # in float32
            loss = statistics.loss()
        assert loss is not None
        distances.append(float(loss))
    assert distances[0] < 1.05 * distances[1]
