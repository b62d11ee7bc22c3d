"""Images as their Fourier coefficients, scaled as in natural images and bounded as pixels are.

    x = 3 tanh(v / 3),   v = irfft2(amplitude · z),   amplitude(f) ∝ 1 / max(f, 1 / side)

The power of natural images falls as 1/f² (Field, JOSA A 1987). White z are therefore a better start than
white pixels, and an optimizer that moves all coefficients by equal steps moves the coarse structure, which
a network's statistics depend on most, furthest: the preconditioning of Olah et al., "Feature
Visualization" (Distill 2017). ResNet-20 at 32 x 32, 25 Adam steps: distance from the batch-normalization
statistics .032, against .124 for pixels (docs/methods/fast.md).

Without the bound single pixels of images distilled for MobileNetV2 reach 29, and the range found for the
input is ten times as wide as any image's: pixels of 0 and 1, normalized, lie within 3 of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.synthesis.frame import LARGEST


class Spectrum(nn.Module):
    """Images of about zero mean and unit variance, all together, made of white `noise` [N, C, H, W].

    No value is beyond ±`LARGEST` (`core.synthesis.frame`).
    """

    amplitude: Tensor

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.height, self.width = noise.shape[2:]
        y = torch.fft.fftfreq(self.height, device=noise.device)[:, None]
        x = torch.fft.rfftfreq(self.width, device=noise.device)[None, :]
        amplitude = 1 / torch.clamp((y.square() + x.square()).sqrt(), min=1 / max(self.height, self.width))
        z = torch.fft.rfft2(noise, norm="ortho")
        images = torch.fft.irfft2(z * amplitude, s=(self.height, self.width), norm="ortho")
        self.register_buffer("amplitude", amplitude / images.std(correction=0).clamp(min=1e-6))
        self.z = nn.Parameter(torch.view_as_real(z))

    def forward(self) -> Tensor:
        """[N, C, H, W], channels-last."""
        spectrum = torch.view_as_complex(self.z) * self.amplitude
        unbounded = torch.fft.irfft2(spectrum, s=(self.height, self.width), norm="ortho")
        images: Tensor = LARGEST * torch.tanh(unbounded / LARGEST)
        return images.contiguous(memory_format=torch.channels_last)
