"""Small networks, each made for one thing that placement and export must get right.

Weights are random, batch normalization has statistics and gains (some negative) as after training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.fake_quant.insert import Student, build_student
from core.fake_quant.observers import MinMax, ObserverFactory
from core.networks.graph import trace
from core.spec import PROFILES, BitSpec

SHAPE = (3, 12, 12)
CLASSES = 5


def images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def norm(channels: int) -> nn.BatchNorm2d:
    """Statistics, gains of both signs and offsets, as training leaves them."""
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.weight[::3] *= -1
        layer.bias.normal_(0, 0.3)
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.normal_(0, 0.5)
    layer.running_var.uniform_(0.3, 2.0)
    return layer


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = False, **options: int) -> nn.Sequential:
    """Convolution and batch normalization; `bias` is the convolution's own."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias, **options)
    return nn.Sequential(layer, norm(outputs))


class Network(nn.Module):
    """`features`, then `head`: pooled over height and width, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits


class Plain(Network):
    """A convolution with a bias of its own, one without, strides, max-pooling that pads."""

    def __init__(self) -> None:
        super().__init__(16)
        self.first, self.second, self.third = conv(3, 8, bias=True), conv(8, 8, stride=2), conv(8, 16)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def features(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.first(x)))
        return F.relu(self.third(F.relu(self.second(x))))


class Residual(Network):
    """The option-A shortcut: every other pixel, zero channels around."""

    def __init__(self) -> None:
        super().__init__(16)
        self.first, self.second, self.third = conv(3, 8), conv(8, 16, stride=2), conv(16, 16)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return F.relu(self.third(F.relu(self.second(x))) + short)


class Depthwise(Network):
    """MobileNetV2's block: expand, depthwise, ReLU6, project without an activation, add."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.expand = conv(3, 8), conv(8, 24, 1)
        self.depthwise, self.project = conv(24, 24, groups=24), conv(24, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x) * 3)
        return x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


class Grouped(Network):
    """ResNeXt's block: a grouped convolution; and one without bias or normalization, as GhostNet has."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.reduce = conv(3, 8), conv(8, 8, 1)
        self.grouped, self.last = conv(8, 8, groups=4), nn.Conv2d(8, 8, 1, bias=False)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.grouped(F.relu(self.reduce(x))))
        return F.relu(self.last(x))


class Gated(Network):
    """Squeeze-and-excitation behind a HardSwish, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.last = conv(3, 8), conv(8, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return F.relu(self.last(gate * x))


class Swish(Network):
    """Squeeze-and-excitation behind a SiLU, as in EfficientNet."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.last = conv(3, 8), conv(8, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return F.silu(self.last(gate * x))


class Dead(Network):
    """A ReLU that is always 0: what reads it computes its biases alone."""

    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.second = conv(3, 8, 1, bias=True), conv(8, 8)
        with torch.no_grad():
            self.first[1].bias.fill_(-100)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))


class Concat(Network):
    """Two branches of different ranges side by side, one of them pooled."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.left, self.right, self.last = conv(3, 8), conv(8, 4), conv(8, 4, 1), conv(16, 8)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return F.relu(self.last(torch.cat([F.relu(self.left(x)), self.right(x), pooled], 1)))


class Shuffle(Network):
    """ShuffleNetV2: the channels are split, one half computes, both are interleaved."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.branch, self.last = conv(3, 8), conv(4, 4), conv(8, 8)

    def features(self, x: Tensor) -> Tensor:
        kept, used = F.relu(self.stem(x)).chunk(2, dim=1)
        x = torch.cat([kept, F.relu(self.branch(used))], dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return F.relu(self.last(x))


class Padded(Network):
    """Zeros on two sides only (TensorFlow's strides), on the image and inside; a `same` convolution."""

    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
        self.third = nn.Conv2d(8, 8, 3, dilation=2, padding="same")

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.pad(x, (0, 1, 0, 1))))
        return F.relu(self.third(F.relu(self.second(F.pad(x, (0, 1, 0, 1))))))


class Mixer(Network):
    """Linear layers on three-dimensional tensors, LayerNorm, GELU, a parameter that is added."""

    def __init__(self) -> None:
        super().__init__(16)
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 9, 16) * 0.1)
        self.before, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.down(F.gelu(self.up(self.before(x))))
        logits: Tensor = self.linear(x.mean(1))
        return logits


class Attention(Network):
    """One head group of self-attention, as in a vision transformer, with a class token."""

    def __init__(self) -> None:
        super().__init__(16)
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, length, _ = x.shape
        qkv = self.qkv(x).view(n, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).reshape(n, length, 16)
        logits: Tensor = self.linear((x + self.out(mixed))[:, 0])
        return logits


class Unfoldable(Network):
    """Batch normalization before its activation and convolution, as in DenseNet: nothing to fold it into."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.before, self.last = nn.Conv2d(3, 8, 3), norm(8), nn.Conv2d(8, 8, 3, bias=False)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(self.last(F.relu(self.before(x))))


class Pooled(nn.Module):
    """Average pools of every kind, then several linear layers (VGG's uneven adaptive pooling)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.linear = conv(3, 8), nn.Linear(8 * 9, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.avg_pool2d(x, 2, 2)  # 6
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # 6
        x = F.avg_pool2d(x, 2, 1)  # 5
        x = F.adaptive_avg_pool2d(x, (3, 3))  # bins of unequal size
        logits: Tensor = self.linear(F.relu(self.hidden(x.flatten(1))))
        return logits


class Twice(Network):
    """One convolution that runs twice, on tensors of different ranges; its normalization too."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.shared = conv(3, 8), conv(8, 8)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(self.shared(F.relu(self.shared(x))))


class SamePooling(Network):
    """Max-pooling padded on two sides, with -inf, of values of both signs (TensorFlow's `same`)."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.last = conv(3, 8), conv(8, 8)

    def features(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem(x), (0, 1, 0, 1), value=float("-inf"))
        return F.relu(self.last(F.max_pool2d(x, 3, 2)))


class Standardized(Network):
    """Weights standardized in the forward pass, group normalization (BiT), a leaky ReLU."""

    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.before, self.after = nn.GroupNorm(2, 8), nn.GroupNorm(1, 8)

    def convolve(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        rows = layer.weight.flatten(1)[None]
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0).view_as(layer.weight)
        return F.conv2d(x, weight, layer.bias, padding=1)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.before(self.convolve(x, self.first)))
        return F.leaky_relu(self.after(self.convolve(x, self.second)), 0.1)


class Scales(Network):
    """Two resolutions that are added, the lower one repeated pixel by pixel (HRNet), another interpolated."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.down, self.last = conv(3, 8), conv(8, 8, stride=2), conv(8, 8)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        low = self.down(x)
        x = F.relu(x + F.interpolate(low, scale_factor=2))
        return F.relu(self.last(x) + F.interpolate(low, size=(12, 12), mode="bilinear"))


class ChannelAttention(Network):
    """A convolution along the channels of the pooled tensor gates them (ECA-Net)."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.last = conv(3, 8), conv(8, 8)
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        gate = torch.sigmoid(self.along(x.mean((2, 3)).unsqueeze(1)))
        return F.relu(self.last(x * gate.view(-1, 8, 1, 1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "gated": Gated,
    "swish": Swish,
    "dead": Dead,
    "concat": Concat,
    "shuffle": Shuffle,
    "padded": Padded,
    "mixer": Mixer,
    "attention": Attention,
    "unfoldable": Unfoldable,
    "pooled": Pooled,
    "twice": Twice,
    "same pooling": SamePooling,
    "standardized": Standardized,
    "scales": Scales,
    "channel attention": ChannelAttention,
}

_traced: dict[str, fx.GraphModule] = {}


def network(name: str) -> nn.Module:
    """The network `name`, the same weights every time."""
    torch.manual_seed(0)
    return NETWORKS[name]().eval().requires_grad_(False)


def teacher(name: str) -> fx.GraphModule:
    """Its graph, traced once a session; not to be changed."""
    if name not in _traced:
        _traced[name] = trace(network(name), SHAPE).requires_grad_(False)
    return _traced[name]


def student(
    name: str,
    bits: str | BitSpec = "w4a4",
    *,
    fold: bool = True,
    observer: ObserverFactory = MinMax,
    seed: int = 0,
    profile: str = "packed",
) -> Student:
    """A calibrated student of the network `name`, on the grids of `profile`."""
    spec = BitSpec.parse(bits) if isinstance(bits, str) else bits
    built = build_student(teacher(name), spec, PROFILES[profile].grids, fold=fold)
    with torch.no_grad(), built.observing(observer):
        built(images(16, seed))
    return built
