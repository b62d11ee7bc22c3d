"""One image of any size to the size that a network expects; uint8 pixels to normalized floats.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import DatasetError

Pixels = NDArray[np.uint8]

CROP_MARGIN = 16  # pixels: larger by no more than this, the image is cropped without resizing
CROP_SHARE = 0.875  # 224 of 256, the usual share of the resized image that is kept


def fit(image_HWC: Pixels, height: int, width: int) -> Pixels:
    """The image at `height` x `width`; see `describe` for the rule. Bilinear with antialiasing."""
    h, w = image_HWC.shape[:2]
    if (h, w) == (height, width):
        return image_HWC
    if not (0 <= h - height <= CROP_MARGIN and 0 <= w - width <= CROP_MARGIN):
        image_HWC = _resize(image_HWC, height, width)
        h, w = image_HWC.shape[:2]
    top, left = (h - height) // 2, (w - width) // 2
    return image_HWC[top : top + height, left : left + width]


def describe(height: int, width: int, shape: Sequence[int] | None) -> str:
    """What `fit` does to images of `shape` (H, W, C), or of mixed sizes (None), as a sentence."""
    target = f"{height}x{width}"
    if shape is not None and tuple(shape[:2]) == (height, width):
        return "none: the images have the network's size"
    if shape is not None and all(
        0 <= have - want <= CROP_MARGIN for have, want in zip(shape, (height, width), strict=False)
    ):
        return f"centre crop to {target}"
    return (
        f"images larger than {target} by at most {CROP_MARGIN} pixels: centre crop; others: shorter side "
        f"resized (bilinear) so that the crop is {CROP_SHARE:.1%} of it, or all of it where that would "
        f"enlarge the image, then centre crop to {target}"
    )


def with_channels(image_HWC: Pixels, channels: int) -> Pixels:
    """Grayscale repeated to `channels`, or colour reduced to luma (ITU-R 601). Raises DatasetError."""
    have = image_HWC.shape[2]
    if have == channels:
        return image_HWC
    if have == 1:
        return np.repeat(image_HWC, channels, axis=2)
    if have == 3 and channels == 1:
        return np.asarray(Image.fromarray(image_HWC).convert("L"))[:, :, None]
    raise DatasetError(
        f"The images have {have} channels, but the network expects {channels}.",
        code="invalid_dataset_shape",
        field="evaluation.dataset_id",
    )


def normalize(x_NHWC: Pixels, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W], (x / 255 - mean) / std."""
    x_NCHW = torch.from_numpy(np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2))).float().div_(255)
    mean_C11, std_C11 = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return x_NCHW.sub_(mean_C11).div_(std_C11)


def _resize(image_HWC: Pixels, height: int, width: int) -> Pixels:
    h, w, channels = image_HWC.shape
    exact = max(height / h, width / w)
    scale = exact / CROP_SHARE if exact / CROP_SHARE <= 1 else exact
    size = max(width, round(w * scale)), max(height, round(h * scale))
    if channels not in (1, 3):
        raise DatasetError(
            f"Images of {channels} channels cannot be resized to {height}x{width}; upload them at that size.",
            code="invalid_dataset_shape",
            field="evaluation.dataset_id",
        )
    image = Image.fromarray(image_HWC[:, :, 0] if channels == 1 else image_HWC)
    resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return resized[:, :, None] if channels == 1 else resized
