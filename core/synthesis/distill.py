"""Images optimized until a network's batch-normalization statistics recognize them.

    min over x of  L_BN(x) + MSE(mean(x), 0) + MSE(std(x), 1)

ZeroQ (arXiv 2001.00281, algorithm 1): the images themselves are the variables of Adam, the network
is fixed; the last two terms are ZeroQ's "input" layer, whose statistics are those of normalized
images. `DEFAULT` deviates from the original: batch statistics (see
`core.synthesis.statistics`); images start from unit Gaussian noise, not from .0136; a cosine to zero
instead of a plateau rule, so that a fixed number of iterations ends at rest. `ORIGINAL` does not,
but for Gaussian noise where the original's is uniform with the same variance.

Networks without batch normalization hold no statistics: they get the noise that images start from, at unit
variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.context import RunContext
from core.memory import within_memory
from core.synthesis.frame import placed
from core.synthesis.precision import reduced_precision
from core.synthesis.spectrum import Spectrum
from core.synthesis.statistics import BatchNormStatistics, Measure, channel_moments, image_distance

BATCH = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """How images are optimized: what they start from, what is measured, and Adam's learning rate.

    It falls as a cosine to zero, or tenfold (to 1e-4 at least) after each 100 steps without progress.
    The variables are the pixels, or with `spectrum` the images' Fourier coefficients.
    """

    measure: Measure = "std"
    initial_std: float = 1.0
    learning_rate: float = 0.1
    schedule: Literal["cosine", "plateau"] = "cosine"
    spectrum: bool = False


DEFAULT = Recipe()
BRIEF = Recipe(learning_rate=0.3, spectrum=True)
ORIGINAL = Recipe("image", initial_std=0.0136, learning_rate=0.5, schedule="plateau")


@dataclass(frozen=True, slots=True)
class Distilled:
    """`images` [N, C, H, W] in the network's normalized space, on the CPU.

    `first_loss` and `last_loss` are the mean statistics distance of the batches before and after; None
    when nothing was optimized (no batch normalization, or no iterations) and the images are the noise that
    the recipe starts from: Gaussian, or with `spectrum` of the spectrum of natural images. `notes` are
    sentences for people.
    """

    images: Tensor
    first_loss: float | None = None
    last_loss: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def measures(self) -> dict[str, float]:
        """Both losses as a method reports them; empty where the images are noise."""
        if self.first_loss is None or self.last_loss is None:
            return {}
        return {"bn_statistics_noise": self.first_loss, "bn_statistics": self.last_loss}


class Pixels(nn.Module):
    """Images [N, C, H, W] that are variables themselves."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(images.to(memory_format=torch.channels_last, copy=True))

    def forward(self) -> Tensor:
        return self.x


def distill(
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    images: int,
    iterations: int,
    context: RunContext,
    batch_size: int = BATCH,
    recipe: Recipe = DEFAULT,
    random: torch.Generator | None = None,
    enough: Callable[[], bool] = lambda: False,
    later_steps: int = 0,
) -> Distilled:
    """Makes `images` images of `shape` (C, H, W) in batches, `iterations` Adam steps a batch.

    `network` must be in eval mode; its parameters get no gradients. Once `enough()` says so, the batch at
    hand is left as it is, and those not yet begun are left out. `later_steps` is how many steps the caller
    will report after these in the same phase. Where memory runs out, batches are halved. Raises Canceled and
    DeadlineExceeded.
    """
    random = random or torch.Generator().manual_seed(context.seed)
    noise = torch.randn(images, *shape, generator=random) * recipe.initial_std
    notes: list[str] = []
    done: list[_Batch] = []
    with frozen(network), BatchNormStatistics(network, recipe.measure) as statistics:
        if statistics.layers == 0 or iterations == 0:
            made = Spectrum(noise)().detach() if recipe.spectrum else noise / recipe.initial_std
            return Distilled(placed(network, made))
        left = _Noise(noise, batch_size, statistics)

        def is_enough(step: int, distance: float) -> bool:
            so_far, batches = len(done) * iterations + step, len(done) + len(left.batches)
            context.step(so_far, batches * iterations + later_steps, {"bn_statistics": distance})
            return enough()

        def next_batch() -> _Batch:
            start = left.batches[0].to(context.device)
            return _optimize(start, network, statistics, recipe, iterations, is_enough)

        while left.batches and not (done and enough()):
            done.append(within_memory(left, notes, next_batch))
            del left.batches[0]
    return Distilled(
        torch.cat([batch.images for batch in done]),
        first_loss=sum(batch.first_loss for batch in done) / len(done),
        last_loss=sum(batch.last_loss for batch in done) / len(done),
        notes=notes,
    )


class _Noise:
    """What is still to be made into images."""

    def __init__(self, noise: Tensor, batch_size: int, statistics: BatchNormStatistics) -> None:
        # Balanced, because a last batch of one or two images has statistics of its own.
        self.batches = list(noise.chunk(-(-len(noise) // batch_size)))
        self.statistics = statistics

    def halve_batch(self) -> int | None:
        self.statistics.forget()
        if len(self.batches[0]) < 4:
            return None
        self.batches = [half for batch in self.batches for half in batch.chunk(2)]
        return len(self.batches[0])


class _Batch(NamedTuple):
    images: Tensor
    first_loss: float
    last_loss: float


def _optimize(
    start: Tensor,
    network: nn.Module,
    statistics: BatchNormStatistics,
    recipe: Recipe,
    iterations: int,
    is_enough: Callable[[int, float], bool],
) -> _Batch:
    """`is_enough` is asked after every step, with how many there were and the distance."""
    canvas = Spectrum(start) if recipe.spectrum else Pixels(start)
    optimizer = torch.optim.Adam(canvas.parameters(), lr=recipe.learning_rate)
    fall = _schedule(recipe, optimizer, iterations)
    distances: list[float] = []
    for step in range(iterations):
        loss, distance = _objective(network, canvas(), statistics)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fall(loss)
        distances.append(distance.item())
        if is_enough(step + 1, distances[-1]):
            break
    with torch.no_grad():
        u_NCHW = canvas().detach()
        last = _objective(network, u_NCHW, statistics)[1].item()
        return _Batch(placed(network, u_NCHW).cpu(), distances[0], last)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, iterations: int) -> Callable[[Tensor], None]:
    """To be called with the loss after every step."""
    if recipe.schedule == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100, min_lr=1e-4)
        return lambda loss: plateau.step(loss.item())
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    return lambda loss: cosine.step()


def _objective(network: nn.Module, u_NCHW: Tensor, statistics: BatchNormStatistics) -> tuple[Tensor, Tensor]:
    """(What the images minimize, the distance of their statistics)."""
    with reduced_precision(network, u_NCHW.device):
        network(placed(network, u_NCHW))
    distance = statistics.loss()
    assert distance is not None
    if statistics.measure == "image":  # ZeroQ's sum over layers, the input being one of them
        zeros_C = u_NCHW.new_zeros(u_NCHW.shape[1])
        return distance * statistics.layers + image_distance(u_NCHW, zeros_C, zeros_C + 1), distance
    mean_C, var_C = channel_moments(u_NCHW)
    std_C = (var_C + 1e-5).sqrt()
    return distance + mean_C.square().mean() + F.mse_loss(std_C, torch.ones_like(std_C)), distance


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Parameters without gradients: half of the backward pass would compute them for nothing."""
    learnable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learnable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnable:
            parameter.requires_grad_(True)
