"""What kind of layer one is."""

from __future__ import annotations

import pytest
from torch import nn

from core.networks.layers import has_depthwise, is_depthwise


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), True),
        (nn.Conv2d(8, 16, 3, groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=4), False),
        (nn.Conv2d(8, 8, 3), False),
        (nn.Conv2d(1, 8, 3), False),
        (nn.Linear(8, 8), False),
    ],
)
def test_filters_of_one_channel_among_several_are_depthwise(layer: nn.Module, expected: bool) -> None:
    assert is_depthwise(layer) is expected
    assert has_depthwise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(layer))) is expected
