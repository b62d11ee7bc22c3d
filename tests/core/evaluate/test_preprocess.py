"""Images are made to fit as the docstring says, and normalized as torchvision does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import DatasetError
from core.evaluate.preprocess import describe, fit, normalize, with_channels

RNG = np.random.default_rng(0)


def image(h: int, w: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (h, w, channels), np.uint8)


def test_an_image_of_the_right_size_is_untouched() -> None:
    x = image(32, 32)
    assert fit(x, 32, 32) is x
    assert describe(32, 32, (32, 32, 3)).startswith("none")


def test_a_slightly_larger_image_is_cropped_only() -> None:
    x = image(227, 240)
    assert np.array_equal(fit(x, 224, 224), x[1:225, 8:232])
    assert describe(224, 224, (227, 240, 3)) == "centre crop to 224x224"


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 241), (20, 30), (224, 100), (1, 1), (223, 300)]
)
@pytest.mark.parametrize("target", [(224, 224), (32, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_target(size: tuple[int, int], target: tuple[int, int], channels: int) -> None:
    assert fit(image(*size, channels), *target).shape == (*target, channels)


def test_a_large_image_keeps_seven_eighths_of_its_shorter_side() -> None:
    # White but for a frame of one sixteenth: exactly what the centre crop takes away.
    x = np.zeros((512, 512, 3), np.uint8)
    x[32:-32, 32:-32] = 255
    assert fit(x, 224, 224)[4:-4, 4:-4].min() == 255
    x[:] = 255
    x[:24], x[-24:], x[:, :24], x[:, -24:] = 0, 0, 0, 0
    assert fit(x, 224, 224).min() == 255


def test_a_small_image_is_enlarged_whole() -> None:
    x = np.zeros((32, 32, 3), np.uint8)
    x[:2], x[-2:] = 255, 255
    y = fit(x, 64, 64)
    assert y[0].min() == 255 and y[-1].min() == 255


def test_channels() -> None:
    gray = image(4, 4, 1)
    assert np.array_equal(with_channels(gray, 3), np.concatenate([gray] * 3, axis=2))
    assert with_channels(image(4, 4), 1).shape == (4, 4, 1)
    assert np.array_equal(with_channels(with_channels(gray, 3), 1), gray)
    with pytest.raises(DatasetError) as caught:
        with_channels(image(4, 4, 2), 3)
    assert caught.value.code == "invalid_dataset_shape"


def test_normalization() -> None:
    x_NHWC = np.stack([image(5, 6), image(5, 6)])
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    found_NCHW = normalize(x_NHWC, mean, std)
    assert found_NCHW.shape == (2, 3, 5, 6) and found_NCHW.dtype is torch.float32
    expected = (x_NHWC / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found_NCHW.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-5)
