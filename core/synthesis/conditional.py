"""GDFQ's generators (arXiv 2003.03603): noise z and a class y to images, on the trunk of ZAQ's generator.

    product       embedding(y) * z -> Linear -> trunk            the authors' for CIFAR
    conditional   z -> Linear -> trunk whose batch normalizations  theirs for ImageNet
                  have a gain and an offset for each class

All of the trunk's batch normalizations but the first take `eps`, which is .8 in the authors' code. The last
one has no affine and gives the images mean 0 and variance 1 in
each channel: the network's own normalized space, whatever mean and std its pixels are normalized by.

Shapes: z_ND latents; y_N classes, int64; x_NCHW.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from core.synthesis.generators import Generator, LatentNoise

Kind = Literal["product", "conditional"]

EPS = 1e-5
_LARGEST_PRODUCT = 64


class ProductGenerator(Generator):
    """(z [N, latent_dim], classes [N]) to images [N, *shape]; the class scales each component of z."""

    def __init__(self, shape: tuple[int, int, int], classes: int, latent_dim: int, eps: float = EPS) -> None:
        super().__init__(shape, latent_dim)
        self.embedding = nn.Embedding(classes, latent_dim)
        for norm in _norms(self.trunk)[1:]:
            norm.eps = eps

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.embedding(y_N) * z_ND)


class ConditionalGenerator(Generator):
    """(z [N, latent_dim], classes [N]) to images [N, *shape]; the class sets gains and offsets."""

    def __init__(self, shape: tuple[int, int, int], classes: int, latent_dim: int, eps: float = EPS) -> None:
        super().__init__(shape, latent_dim)
        for index, norm in enumerate(_norms(self.trunk)):
            new = ConditionalBatchNorm2d(norm.num_features, classes, eps=eps if index else norm.eps)
            self.trunk[_position(self.trunk, norm)] = new

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:  # type: ignore[override]
        for module in self.trunk:
            if isinstance(module, ConditionalBatchNorm2d):
                module.classes_N = y_N
        return super().forward(z_ND)


class ConditionalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with a gain (at first 1) and an offset (at first 0) for each class.

    The classes [N] of the batch are set before it runs, so that it fits into an nn.Sequential.
    """

    classes_N: Tensor

    def __init__(self, channels: int, classes: int, eps: float) -> None:
        super().__init__(channels, eps, affine=False)
        self.gain = nn.Embedding.from_pretrained(torch.ones(classes, channels), freeze=False)
        self.offset = nn.Embedding.from_pretrained(torch.zeros(classes, channels), freeze=False)

    def forward(self, input: Tensor) -> Tensor:
        gain_NC11 = self.gain(self.classes_N)[:, :, None, None]
        offset_NC11 = self.offset(self.classes_N)[:, :, None, None]
        return torch.addcmul(offset_NC11, super().forward(input), gain_NC11)


def build(
    shape: tuple[int, int, int], classes: int, latent_dim: int, kind: Kind | None = None, eps: float = EPS
) -> ProductGenerator | ConditionalGenerator:
    """The generator of a kind; absent, of the one that the authors chose for images of that side."""
    kind = kind or ("product" if max(shape[1:]) <= _LARGEST_PRODUCT else "conditional")
    make = ProductGenerator if kind == "product" else ConditionalGenerator
    return make(shape, classes, latent_dim, eps)


class ClassNoise:
    """Latents and classes, drawn on the CPU so that every device sees the same sequence.

    `latents(count)` draws latents alone.
    """

    def __init__(self, latent_dim: int, classes: int, device: torch.device, random: torch.Generator) -> None:
        self.latents = LatentNoise(latent_dim, device, random)
        self.classes = classes

    def __call__(self, count: int) -> tuple[Tensor, Tensor]:
        """(z [count, latent_dim], standard normal; y [count], every class equally likely)"""
        classes_N = torch.randint(self.classes, (count,), generator=self.latents.random)
        return self.latents(count), classes_N.to(self.latents.device)


def _norms(trunk: nn.Sequential) -> list[nn.BatchNorm2d]:
    return [module for module in trunk if isinstance(module, nn.BatchNorm2d) and module.affine]


def _position(trunk: nn.Sequential, module: nn.Module) -> int:
    return next(index for index, found in enumerate(trunk) if found is module)
