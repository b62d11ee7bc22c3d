"""The closed-form moments are right, and the loss is the published one, on the inputs of BN layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.synthesis.statistics import BatchNormStatistics, channel_moments, image_distance


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    )
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return layers.eval()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (4, 3, 1, 1), (1, 3, 7, 7)])
def test_moments_and_their_gradient_are_those_of_torch(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    x = (torch.randn(shape) * 3 + 1).contiguous(memory_format=layout).requires_grad_()
    weight_mean, weight_var = torch.randn(3), torch.randn(3)

    def gradient(mean: Tensor, var: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad((mean * weight_mean + var * weight_var).sum(), x)
        return grad

    mean, var = channel_moments(x)
    expected_var, expected_mean = torch.var_mean(x, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradient(mean, var), gradient(expected_mean, expected_var), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("measure", ["std", "variance"])
def test_loss_compares_the_inputs_of_bn_layers(measure: str) -> None:
    layers = network()
    images = torch.randn(8, 3, 9, 9)
    with BatchNormStatistics(layers, measure) as statistics:  # type: ignore[arg-type]
        layers(images)
        loss = statistics.loss()
    expected = []
    for index in (0, 4):
        norm = layers[index]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        x = layers[:index](images)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        spread = [var, norm.running_var]
        if measure == "std":
            spread = [s.add(norm.eps).sqrt() for s in spread]
        expected.append((mean - norm.running_mean).square().mean() + (spread[0] - spread[1]).square().mean())
    torch.testing.assert_close(loss, sum(expected) / 2)


def test_each_image_is_measured_on_its_own_as_zeroqs_code_does() -> None:
    layers = network()
    images = torch.randn(6, 3, 9, 9)
    with BatchNormStatistics(layers, "image") as statistics:
        layers(images)
        loss = statistics.loss()
    total = torch.zeros(())
    for index in (0, 4):
        norm = layers[index]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        for image in layers[:index](images):
            pixels = image.flatten(1)
            mean, std = pixels.mean(1), pixels.var(1).add(1e-6).sqrt()
            target = norm.running_var.add(1e-6).sqrt()
            total += (mean - norm.running_mean).square().sum() + (std - target).square().sum()
    torch.testing.assert_close(loss, total / 6 / 2)


def test_one_pixel_has_no_variance_and_no_nan() -> None:
    x = torch.randn(4, 3, 1, 1, requires_grad=True)
    loss = image_distance(x, torch.zeros(3), torch.full((3,), 4.0))
    assert loss.item() == pytest.approx(
        x.detach().square().sum().item() / 4 + 3 * (4.000001**0.5 - 1e-3) ** 2, rel=1e-4
    )
    loss.backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()


def test_loss_is_zero_for_the_very_batch_the_statistics_came_from() -> None:
    layers = network()
    images = torch.randn(64, 3, 9, 9)
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    layers.train()(images)
    layers.eval()
    for norm, count in zip(norms, (64 * 81, 64 * 25), strict=True):
        assert norm.running_var is not None
        norm.running_var *= (count - 1) / count  # torch stores the unbiased variance
    with BatchNormStatistics(layers) as statistics:
        layers(images)
        loss = statistics.loss()
    assert loss is not None and loss.item() < 1e-9


def test_a_dead_channel_keeps_gradients_finite() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.zeros(4, 2, 3, 3, requires_grad=True)
    with BatchNormStatistics(layers) as statistics:
        layers(x)
        loss = statistics.loss()
    assert loss is not None
    loss.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_networks_without_running_statistics_have_no_loss() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with BatchNormStatistics(layers) as statistics:
        layers(torch.randn(2, 3, 8, 8))
        assert statistics.layers == 0
        assert statistics.loss() is None


def test_closing_removes_the_hooks_and_disabling_skips_them() -> None:
    layers = network()
    with BatchNormStatistics(layers) as statistics:
        statistics.enabled = False
        layers(torch.randn(2, 3, 9, 9))
        with pytest.raises(RuntimeError, match="No forward pass"):
            statistics.loss()
    assert not any(layer._forward_pre_hooks for layer in layers)
