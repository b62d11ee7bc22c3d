"""Where the images of a network lie: pixels of 0 and 1 after its preprocessing.

Synthetic images are made around 0 with deviation 1, as normalized photographs are. Networks whose
`mean` and `std` do not normalize (0 and 1/255, or those of another range) read others: for these,
what is made is moved, so that ±3 becomes the ends of the pixels' range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

LARGEST = 3.0  # ImageNet's pixels reach -2.1 and 2.6, CIFAR-10's and MNIST's 2.8
_KEY = "pixel_range"


@dataclass(frozen=True, slots=True)
class Frame:
    """x = centre + spread · u for made images u; `centre` and `spread` are [C, 1, 1]."""

    centre: Tensor
    spread: Tensor

    def place(self, u_NCHW: Tensor) -> Tensor:
        return self.centre.to(u_NCHW) + self.spread.to(u_NCHW) * u_NCHW


def set_pixel_range(network: fx.GraphModule, mean: Sequence[float], std: Sequence[float]) -> None:
    """Tells the traced network how its images are normalized, from pixels in [0, 1]."""
    network.meta[_KEY] = [((0 - m) / s, (1 - m) / s) for m, s in zip(mean, std, strict=True)]


def frame_of(network: nn.Module) -> Frame | None:
    """None where images are within ±`LARGEST` as they are made, or nothing is known."""
    ends = getattr(network, "meta", {}).get(_KEY)
    if ends is None or all(low >= -LARGEST and high <= LARGEST for low, high in ends):
        return None
    low, high = (torch.tensor(end).view(-1, 1, 1) for end in zip(*ends, strict=True))
    return Frame((low + high) / 2, (high - low) / 2 / LARGEST)


def placed(network: nn.Module, u_NCHW: Tensor) -> Tensor:
    """What was made around 0, where the network's images lie."""
    frame = frame_of(network)
    return u_NCHW if frame is None else frame.place(u_NCHW)


def place_images(generator: nn.Module, network: nn.Module) -> None:
    """What the generator makes from now on lies where the network's images do."""
    if (frame := frame_of(network)) is not None:
        generator.register_forward_hook(lambda module, inputs, made: frame.place(made))
