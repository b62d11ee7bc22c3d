"""How far a batch of images is from what a network's batch normalization remembers of its training set.

Every BatchNorm2d stores the mean and the variance that its *input* had over the training images.
`BatchNormStatistics` reads the same two numbers from the batch at hand, as biased moments over
(N, H, W), and compares. Three measures are published:

    "std"       mean over layers of MSE(mean, mean_BN) + MSE(std, std_BN)
                ZeroQ (arXiv 2001.00281, eq. 3), GENIE (arXiv 2212.04780, eq. 2)
    "variance"  mean over layers of MSE(mean, mean_BN) + MSE(var, var_BN)
                GDFQ (arXiv 2003.03603, eq. 2, as its code has it)
    "image"     mean over layers and images of |mean - mean_BN|^2 + |std - std_BN|^2, summed over
                channels, with the moments of each image on its own over (H, W): ZeroQ's code

Deviations from ZeroQ's code: the moments of "image" are unbiased as there, except on 1x1 maps, where
that gives NaN; and inputs of BN modules are hooked instead of pairing the i-th convolution with
the i-th BN, which breaks wherever a convolution has no BN of its own.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

Measure = Literal["std", "variance", "image"]

IMAGE_EPS = 1e-6  # inside the roots of "image", as in ZeroQ's code


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel, in one pass forward and one pass backward.

    On a CPU, torch.var_mean over (N, H, W) of a channels-last tensor takes about ten times as long as
    the kernel that batch normalization itself uses; the backward is affine in x, one multiply-add.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        if x_NCHW.device.type == "cpu":
            mean_C, var_C = torch.ops.aten.batch_norm_update_stats(x_NCHW, None, None, 0.0)
        else:
            var_C, mean_C = torch.var_mean(x_NCHW, (0, 2, 3), correction=0)
        ctx.save_for_backward(x_NCHW, mean_C)
        return mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x_NCHW, mean_C = ctx.saved_tensors
        dmean_C, dvar_C = grads
        count = x_NCHW.numel() // x_NCHW.shape[1]
        # d mean / dx = 1/count;  d var / dx = 2 (x - mean) / count
        slope_C = dvar_C * (2 / count)
        offset_C = dmean_C / count - slope_C * mean_C
        return torch.addcmul(offset_C.view(1, -1, 1, 1), x_NCHW, slope_C.view(1, -1, 1, 1))


def channel_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N, H, W): two tensors [C], differentiable once."""
    mean_C, var_C = _ChannelMoments.apply(x_NCHW)
    return mean_C, var_C


def image_distance(x_NCHW: Tensor, mean_C: Tensor, var_C: Tensor) -> Tensor:
    """Scalar: "image"'s distance of x from a mean and a variance."""
    pixels_NCP = x_NCHW.flatten(2)
    var_NC, mean_NC = torch.var_mean(pixels_NCP, 2, correction=min(1, pixels_NCP.shape[2] - 1))
    std_NC, std_C = (var_NC + IMAGE_EPS).sqrt(), (var_C + IMAGE_EPS).sqrt()
    return ((mean_NC - mean_C).square() + (std_NC - std_C).square()).sum(1).mean()


class BatchNormStatistics:
    """Watches the inputs of every BatchNorm2d of `network` while it is open.

        with BatchNormStatistics(teacher) as statistics:
            logits = teacher(images)
            loss = statistics.loss()     # of the latest forward pass

    The hooks cost one pass over each input, and only where gradients or a loss are asked for: set
    `enabled = False` to let forward passes go by unwatched. `layers` is how many layers are
    watched; layers that keep no running statistics are not. Without any, `loss()` is None: such a
    network remembers nothing of its training set, and the caller must say so.
    """

    def __init__(self, network: nn.Module, measure: Measure = "std") -> None:
        self.measure = measure
        self.enabled = True
        self._layers = [
            module
            for module in network.modules()
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
        ]
        self._terms: dict[nn.BatchNorm2d, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def layers(self) -> int:
        return len(self._layers)

    def __enter__(self) -> Self:
        for layer in self._layers:
            self._handles.append(layer.register_forward_pre_hook(self._observe))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()

    def loss(self) -> Tensor | None:
        """Scalar: the distance of the batch that was forwarded last; None without layers.

        Forgets the batch, so that its graph can be freed. Raises RuntimeError when no batch came by.
        """
        if not self._layers:
            return None
        if not self._terms:
            raise RuntimeError("No forward pass since the last loss().")
        terms = list(self._terms.values())
        self.forget()
        return torch.stack(terms).mean()

    def forget(self) -> None:
        """Lets go of a batch whose forward pass broke off, and of all that its loss would need."""
        self._terms.clear()

    def _observe(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not self.enabled:
            return
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None and layer.running_var is not None
        if self.measure == "image":
            self._terms[layer] = image_distance(inputs[0], layer.running_mean, layer.running_var)
            return
        mean_C, var_C = channel_moments(inputs[0])
        spread_C, target_C = var_C, layer.running_var
        if self.measure == "std":
            # eps inside the roots: the slope of sqrt at a dead channel would be infinite.
            spread_C, target_C = (var_C + layer.eps).sqrt(), (layer.running_var + layer.eps).sqrt()
        self._terms[layer] = F.mse_loss(mean_C, layer.running_mean) + F.mse_loss(spread_C, target_C)
