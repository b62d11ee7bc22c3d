"""How much noise quantization leaves in the output of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

import torch
from torch import Tensor, fx

from core.evaluate.metrics import decibels
from core.fake_quant.insert import Student

# Pixels a batch: four ImageNet images, or all of CIFAR's at once.
_PIXELS = 4 * 224 * 224


@torch.no_grad()
def activation_sqnr_db(
    teacher: fx.GraphModule,
    student: Student,
    images_NCHW: Tensor,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Signal-to-quantization-noise ratio of each layer's output, in decibels, over all images.

    Both networks are folded (fold_bn, Student.folded) and on `device`; a layer's output is then that of
    its batch normalization too. In the student all quantizers before the layer are at work, not the
    one that rounds its output, and channels that equalization scaled are scaled back. A layer that runs
    several times counts with all its outputs. Infinite without noise, minus infinite where the teacher's
    outputs are all zero. `check` is called before each batch, and may raise to stop.
    """
    layers = student.layers()
    names = set(layers)
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    height, width = images_NCHW.shape[2:]
    for batch in images_NCHW.split(max(1, _PIXELS // (height * width))):
        check()
        x = batch.to(device)
        pairs = zip(_Walk(teacher).outputs(x, names), _Walk(student.graph).outputs(x, names), strict=True)
        for (name, reference), (same, value) in pairs:
            assert name == same
            if (scale := layers[name].output_scale) is not None:
                value = value / scale.to(value).view(-1, *[1] * (value.dim() - 2))
            signal[name] += _energy(reference)
            noise[name] += _energy(reference - value)
    return {name: decibels(signal[name], noise[name]) for name in names}


class _Walk(fx.Interpreter):
    """Runs a graph a step at a time, so that two can go side by side and keep only what is still read."""

    def outputs(self, x_NCHW: Tensor, layers: Set[str]) -> Iterator[tuple[str, Tensor]]:
        """(layer, output) in the order in which they run."""
        self.args_iter = iter([x_NCHW])
        for node in self.graph.nodes:
            value = self.env[node] = self.run_node(node)
            for spent in self.user_to_last_uses.get(node, []):
                del self.env[spent]
            if node.op == "call_module" and str(node.target) in layers:
                yield str(node.target), value


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
