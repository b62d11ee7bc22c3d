"""OpenVINO reads a portable file and names the classes that ONNX Runtime names."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from onnx import ModelProto
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from core.export.onnx import export_student
from core.export.session import as_input, open_session, run
from core.fake_quant.insert import build_student
from core.networks.graph import trace
from core.spec import PROFILES, BitSpec

openvino = pytest.importorskip("openvino")

SHAPE, CLASSES = (1, 8, 8), 10
TRAINED_ON = 1400


def block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Digits(nn.Module):
    """Convolutions, one of them depthwise, max-pooling, a linear layer; with or without a shortcut."""

    def __init__(self, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.first, self.second = block(1, 16), block(16, 16)
        self.depthwise, self.last = block(16, 16, groups=16), block(16, 32)
        self.linear = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        inner = self.depthwise(F.relu(self.second(x)))
        x = F.max_pool2d(F.relu(x + inner if self.shortcut else inner), 2)
        logits: Tensor = self.linear(F.relu(self.last(x)).mean((2, 3)))
        return logits


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images [N, 1, 8, 8] around 0, and their classes."""
    found = load_digits()
    x = torch.from_numpy(found.images).float().unsqueeze(1) / 8 - 1
    return x, torch.from_numpy(found.target)


@cache
def trained(shortcut: bool) -> nn.Module:
    torch.manual_seed(0)
    network, (x, y) = Digits(shortcut).train(), digits()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(6):
        for chosen in torch.randperm(TRAINED_ON).split(100):
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


@cache
def portable(shortcut: bool, bits: str) -> ModelProto:
    student = build_student(
        trace(trained(shortcut), SHAPE), BitSpec.parse(bits), PROFILES["portable"].grids
    ).eval()
    x, _ = digits()
    with torch.no_grad(), student.observing():
        student(x[:TRAINED_ON])
    return export_student(student, SHAPE, CLASSES, {}, "portable").model


def compiled(model: ModelProto) -> Any:
    core = openvino.Core()
    # Where a processor has bfloat16, OpenVINO would compute in it what stayed float.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)


def classes(model: ModelProto, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What (OpenVINO, ONNX Runtime) name, in batches of several sizes."""
    network, session = compiled(model), open_session(model, threads=1)
    there = [torch.from_numpy(network(as_input(batch))[0].copy()) for batch in x_NCHW.split(128)]
    here = [run(session, batch) for batch in x_NCHW.split(128)]
    return torch.cat(there).argmax(1), torch.cat(here).argmax(1)


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4"])
def test_it_names_the_same_classes(bits: str) -> None:
    x, y = (part[TRAINED_ON:] for part in digits())
    there, here = classes(portable(False, bits), x)
    assert float((here == y).float().mean()) > 0.85
    assert float((there == here).float().mean()) >= 0.99  # ties may fall the other way


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4"])
def test_with_shortcuts_it_rounds_less_often_and_names_almost_the_same(bits: str) -> None:
    """It adds a shortcut to a layer's sum before that is rounded."""
    x, y = (part[TRAINED_ON:] for part in digits())
    there, here = classes(portable(True, bits), x)
    assert float((there == here).float().mean()) > 0.98
    assert abs(int((there == y).sum()) - int((here == y).sum())) <= 4


@pytest.mark.parametrize("bits", ["w8a8", "w2a3"])
@pytest.mark.parametrize("shortcut", [False, True])
def test_its_layers_run_in_integers(bits: str, shortcut: bool) -> None:
    infos = [node.get_rt_info() for node in compiled(portable(shortcut, bits)).get_runtime_model().get_ops()]
    layers = [info for info in infos if info["layerType"].astype(str) in ("Convolution", "FullyConnected")]
    assert len(layers) == 5
    assert {info["runtimePrecision"].astype(str) for info in layers} == {"u8"}
