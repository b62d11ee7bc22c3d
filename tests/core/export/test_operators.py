"""Every operator as ONNX gives what torch gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.errors import ArchitectureError
from core.export.onnx import export_float
from core.export.operators import check_operators
from core.export.session import open_session, run
from core.networks.graph import trace
from tests.core import small

OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp without an upper bound": lambda x: torch.clamp(3 * x, min=-0.5),
    "clamp without a lower bound": lambda x: torch.clamp(3 * x, max=2.0),
    "hardtanh": lambda x: F.hardtanh(3 * x),
    "hardtanh with bounds": lambda x: F.hardtanh(3 * x, 0.0, 4.0),
    "silu, tanh, sigmoid": lambda x: F.silu(x) + torch.tanh(x) * torch.sigmoid(x),
    "norm": lambda x: x / torch.linalg.vector_norm(x, dim=(1, -1), keepdim=True),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "hardswish, hardsigmoid": lambda x: F.hardswish(3 * x) + F.hardsigmoid(3 * x),
    "arithmetic with numbers": lambda x: (2 * x - 0.25) / 3 + 1,
    "softmax": lambda x: torch.softmax(x, dim=-2),
    "mean over height and width": lambda x: x.mean((-1, -2), keepdim=True) + x,
    "mean over channels": lambda x: x.mean(1, keepdim=True),
    "average pool, padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average pool, padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool, ceiling": lambda x: F.avg_pool2d(x, 3, 2, 0, ceil_mode=True, count_include_pad=False),
    "average pool, oblong": lambda x: F.avg_pool2d(x, (2, 3), (1, 2)),
    "adaptive pool, even": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive pool, uneven": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "adaptive pool, one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive pool, as it is": lambda x: F.adaptive_avg_pool2d(x, 12) + 1,
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pool, ceiling": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max pool, dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "pad with zeros": lambda x: F.pad(x, (1, 2, 3, 4)),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad with a number": lambda x: F.pad(x, (1, 2), value=-2.0),
    "pad, reflecting": lambda x: F.pad(x, (1, 2, 3, 4), mode="reflect"),
    "pad, replicating": lambda x: F.pad(x, (1, 2, 3, 4), mode="replicate"),
    "pad, circular": lambda x: F.pad(x, (1, 2, 0, 4), mode="circular"),
    "pad and crop, circular": lambda x: F.pad(x, (3, -2, 0, 0), mode="circular"),
    "crop by negative padding": lambda x: F.pad(x, (-1, -2)),
    "slices": lambda x: x[:, 1:, 2:-1:2, -3:],
    "select": lambda x: x[:, -1] + x[:, 0, :, 3, None],
    "split": lambda x: torch.cat(x.split([5, 7], dim=2)[::-1], 2),
    "chunk, uneven": lambda x: x.chunk(5, dim=3)[-1],
    "transpose, permute": lambda x: x.transpose(-1, 1).permute(0, 2, 1, 3),
    "squeeze, unsqueeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
    "flatten": lambda x: x.flatten(1)[:, :9],
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "einsum": lambda x: torch.einsum("nchw,ncvw->nchv", x, x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1),
    "attention with a scale": lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, scale=0.1),
    "roll": lambda x: torch.roll(x, (-5, 3), (2, 3)),
    "constants": lambda x: x + torch.linspace(-1, 1, 12).view(1, 1, 12, 1) * 2,
    "leaky relu": lambda x: F.leaky_relu(x) + F.leaky_relu(x, 0.2),
    "minus, power": lambda x: -(x**2) + (F.relu(x) + 1) ** 0.5,
    "sums": lambda x: x.sum((1, 3), keepdim=True) + x.sum(2)[:, :, None],
    "largest": lambda x: x.amax(1, keepdim=True) + x.amax((2, 3))[..., None, None],
    "of the whole batch": lambda x: x + x.amax() - x.sum((0, 1, 2, 3)),
    "group norm": lambda x: F.group_norm(x, 3, torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.0, 1.0])),
    "group norm of vectors": lambda x: F.group_norm(x.flatten(2), 1, eps=1e-3),
    "rms norm": lambda x: F.rms_norm(x, (12,), torch.linspace(-1, 1, 12)) + F.rms_norm(x, (12, 12), eps=1e-3),
    "larger, nearest": lambda x: F.interpolate(x, scale_factor=2) * F.interpolate(x, size=(24, 24)),
    "larger, nearest, oblong": lambda x: F.interpolate(x, size=(12, 36)),
    "larger, bilinear": lambda x: F.interpolate(x, size=(24, 30), mode="bilinear"),
    "larger, bilinear to the corners": lambda x: F.interpolate(
        x, size=(24, 30), mode="bilinear", align_corners=True
    ),
    "smaller, bilinear": lambda x: F.interpolate(x, size=(7, 5), mode="bilinear"),
    "larger, bicubic": lambda x: F.interpolate(x, size=(25, 17), mode="bicubic"),
}


class Operator(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x)
        return y.reshape(y.shape[0], -1)


@cache
def traced(name: str) -> fx.GraphModule:
    return trace(Operator(OPERATORS[name]), small.SHAPE)


@pytest.mark.parametrize("profile", ["packed", "portable"])
@pytest.mark.parametrize("name", OPERATORS)
def test_onnx_gives_what_torch_gives(name: str, profile: str) -> None:
    """In the newest opset that files are written in, and in the oldest."""
    x = small.images(3)
    expected = Operator(OPERATORS[name])(x)
    model = export_float(traced(name), small.SHAPE, expected.shape[1], {}, profile)
    onnx.checker.check_model(model, full_check=True)
    found = run(open_session(model), x)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda x: torch.add(x, x, alpha=2),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: F.interpolate(x, size=(18, 12)),
    ],
)
def test_what_would_come_out_wrong_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    graph = trace(Operator(function), small.SHAPE)
    with pytest.raises(ArchitectureError) as caught:
        export_float(graph, small.SHAPE, 5, {})
    assert caught.value.code == "unsupported_operator"


def test_unknown_operators_are_named_before_a_job_begins() -> None:
    with pytest.raises(ArchitectureError) as caught:
        check_operators(trace(Operator(lambda x: torch.erf(x) + torch.cumsum(x, 1)), small.SHAPE))
    assert caught.value.code == "unsupported_operator"
    assert "erf" in caught.value.detail
    assert "cumsum" in caught.value.detail


def test_an_operator_with_several_results_is_named_too() -> None:
    with pytest.raises(ArchitectureError, match="topk"):
        check_operators(trace(Operator(lambda x: torch.topk(x, 2)[0]), small.SHAPE))


@pytest.mark.parametrize("name", small.NETWORKS)
def test_known_operators_pass(name: str) -> None:
    check_operators(small.teacher(name))
