"""Distance of two networks' answers, softened by a temperature (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def softened_kl(logits_NC: Tensor, wanted_NC: Tensor, temperature: float) -> Tensor:
    """Scalar: T^2 KL(softmax(wanted / T) | softmax(logits / T)), averaged over batch and classes."""
    student_NC = F.log_softmax(logits_NC / temperature, dim=1)
    teacher_NC = F.log_softmax(wanted_NC / temperature, dim=1)
    return temperature**2 * F.kl_div(student_NC, teacher_NC, reduction="none", log_target=True).mean()
