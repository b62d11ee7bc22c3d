"""What synthetic data know of a network's classes: GDFQ's toy experiment (arXiv 2003.03603, section 4.2).

    python examples/toy/toy.py [OUT.png]

trains a small classifier P on four Gaussian classes in the plane. Then 512 points are made from P alone, in
two ways: a generator learns to make points of given classes y, as in GDFQ, or the points themselves are
optimized, as in ZeroQ (arXiv 2001.00281), to agree with P's batch normalization:

    GDFQ   CE(P(x), y) + bn_weight BNS(P, x)
    ZeroQ                          BNS(P, x)

Prints how P and the real classes see them, and draws them over P's decision regions.
A point is an image of one pixel and two channels, so that core's parts for images serve for points.

Shapes: z_ND latents; y_N classes; x_NCHW points [N, 2, 1, 1]; _K2 classes, two axes; _P pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from core.context import RunContext
from core.synthesis.conditional import ClassNoise, ConditionalBatchNorm2d
from core.synthesis.distill import distill, frozen
from core.synthesis.statistics import BatchNormStatistics

# All together about mean 0 and variance 1 on each axis, as normalized images are.
CENTERS_K2 = torch.tensor([[-1.33, 0.85], [-0.58, -1.06], [0.95, 1.06], [0.95, -0.85]])
SPREADS_K2 = torch.tensor([[0.34, 0.17], [0.19, 0.21], [0.15, 0.38], [0.30, 0.25]])
CLASSES, POINTS = len(CENTERS_K2), 512
STEPS, BATCH, LATENT_DIM, BN_WEIGHT = 300, 256, 8, 3.0
SURE, ELLIPSE = 0.99, 9.21  # the squared radius, in standard deviations, that holds 99 % of a Gaussian
GRAY, COLORS_K3 = [60] * 3, torch.tensor([[214, 69, 65], [43, 123, 186], [44, 150, 90], [222, 150, 20]])
SIDE, GAP, EXTENT = 800, 16, 2.6  # a panel shows [-EXTENT, EXTENT] on both axes


def real_points(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    y_N = torch.arange(count) % CLASSES
    x_N2 = CENTERS_K2[y_N] + SPREADS_K2[y_N] * torch.randn(count, 2, generator=random)
    return x_N2[:, :, None, None], y_N


def train_classifier(context: RunContext, width: int = 8) -> nn.Sequential:
    random = context.seed_everything()
    layers: list[nn.Module] = []
    for inputs in (2, width):
        layers += [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(width, CLASSES, 1), nn.Flatten())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(STEPS):
        x_NCHW, y_N = real_points(BATCH, random)
        optimizer.zero_grad()
        F.cross_entropy(network(x_NCHW), y_N).backward()
        optimizer.step()
    return network.eval()


class PointGenerator(nn.Module):
    """(z [N, LATENT_DIM], classes [N]) to points: core's conditional generator at the size of a point."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.project = nn.Conv2d(LATENT_DIM, width, 1)
        self.norm = ConditionalBatchNorm2d(width, CLASSES, eps=1e-5)
        self.last = nn.Sequential(nn.Conv2d(width, 2, 1), nn.BatchNorm2d(2, affine=False))

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        self.norm.classes_N = y_N
        points: Tensor = self.last(self.norm(self.project(z_ND[:, :, None, None])).relu())
        return points


def gdfq_points(network: nn.Module, context: RunContext) -> tuple[Tensor, Tensor]:
    """Points and the classes that they were made to be."""
    noise = ClassNoise(LATENT_DIM, CLASSES, context.device, context.seed_everything())
    generator = PointGenerator()
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.999))
    with frozen(network), BatchNormStatistics(network) as statistics:
        for _ in range(STEPS):
            z_ND, y_N = noise(BATCH)
            class_loss = F.cross_entropy(network(generator(z_ND, y_N)), y_N)
            bn_loss = statistics.loss()
            assert bn_loss is not None
            optimizer.zero_grad()
            (class_loss + BN_WEIGHT * bn_loss).backward()
            optimizer.step()
    z_ND, y_N = noise(POINTS)
    return generator(z_ND, y_N).detach(), y_N


def zeroq_points(network: nn.Module, context: RunContext) -> Tensor:
    n, shape = POINTS, (2, 1, 1)  # one batch: a point has no spread of its own
    return distill(network, shape, images=n, batch_size=n, iterations=STEPS, context=context).images


@torch.no_grad()
def measure(network: nn.Module, x_NCHW: Tensor, y_N: Tensor | None = None) -> dict[str, float]:
    """Percent that P takes for the class they were made to be (`recognized`), gives no class 99 % (`unsure`),
    and that are in the ellipse of a real class (`inside`); `classes` seen; `distance` from P's statistics."""
    with BatchNormStatistics(network) as statistics:
        sure_N, seen_N = network(x_NCHW).softmax(1).max(1)
        distance = statistics.loss()
    assert distance is not None
    radius_NK = ((x_NCHW.flatten(1)[:, None] - CENTERS_K2) / SPREADS_K2).square().sum(2)
    found = {} if y_N is None else {"recognized": seen_N == y_N}
    found |= {"unsure": sure_N < SURE, "inside": radius_NK.amin(1) < ELLIPSE}
    shares = {name: 100 * found_N.float().mean().item() for name, found_N in found.items()}
    return {**shares, "classes": len(seen_N.unique()), "distance": distance.item()}


@torch.no_grad()
def panel(network: nn.Module, title: str, x_NCHW: Tensor, y_N: Tensor | None) -> Image.Image:
    """Points in their class's color, gray without one, over P's regions, paler where P is unsure."""
    axis = torch.linspace(-EXTENT, EXTENT, SIDE)
    plane_P2 = torch.cartesian_prod(-axis, axis).flip(1)  # row by row from the top left corner
    sure_P, seen_P = network(plane_P2[:, :, None, None]).softmax(1).max(1)
    pixels_P3 = 255 + torch.where(sure_P < SURE, 0.12, 0.3)[:, None] * (COLORS_K3[seen_P] - 255)
    pen = ImageDraw.Draw(image := Image.fromarray(pixels_P3.byte().view(SIDE, SIDE, 3).numpy()))
    places_N2 = SIDE / 2 * (1 + x_NCHW.flatten(1) * torch.tensor([1, -1]) / EXTENT)
    inks = [GRAY] * len(places_N2) if y_N is None else COLORS_K3[y_N].tolist()
    for place, ink in zip(places_N2.tolist(), inks, strict=True):
        pen.circle(place, SIDE / 110, fill=tuple(ink), outline="white", width=2)
    pen.text((SIDE / 40, SIDE / 60), title, fill="black", font=ImageFont.load_default(SIDE / 18))
    return image.reduce(2)  # which smooths the edges


def main(path: Path) -> None:
    context = RunContext(scratch=path.parent, device=torch.device("cpu"))
    network = train_classifier(context)
    kinds: dict[str, tuple[Tensor, Tensor | None]] = {
        "real": real_points(POINTS, torch.Generator().manual_seed(context.seed + 1)),
        "GDFQ": gdfq_points(network, context),
        "ZeroQ": (zeroq_points(network, context), None),
    }
    sheet = Image.new("RGB", (len(kinds) * (SIDE + GAP) // 2, SIDE // 2), "white")
    for index, (name, points) in enumerate(kinds.items()):
        print(f"{name:5}", *(f"{what} {n:.3g}" for what, n in measure(network, *points).items()), sep="  ")
        sheet.paste(panel(network, name, *points), (index * (SIDE + GAP) // 2, 0))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # batches of points are too small to share
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "toy.png"))
