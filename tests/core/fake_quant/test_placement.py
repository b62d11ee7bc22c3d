"""One test for each rule of placement, on networks of a few operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.errors import SpecError
from core.export.operators import MOVES
from core.fake_quant import placement as rules
from core.fake_quant.placement import Placement, is_passthrough, place
from core.networks.fold_bn import fold_bn
from core.networks.graph import trace
from core.spec import BitSpec, LayerBits
from tests.core import small

aten = torch.ops.aten


class Body(nn.Module):
    """Two convolutions `a` and `b` of equal shape, `c` of the image, a linear layer at the end."""

    def __init__(self, body: Callable[[Body, Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.body = body
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.body(self, x).mean((2, 3)))
        return logits


@cache
def traced(body: Callable[[Body, Tensor], Tensor]) -> fx.GraphModule:
    return fold_bn(trace(Body(body), (3, 8, 8)))


def placed(body: Callable[[Body, Tensor], Tensor], **bits: object) -> Placement:
    return place(traced(body), BitSpec(**{"weight": 3, "activation": 4, **bits}))  # type: ignore[arg-type]


def added(m: Body, x: Tensor) -> Tensor:
    x = m.c(x)
    return F.relu(m.a(x) + m.b(x))


def skipped(m: Body, x: Tensor) -> Tensor:
    x = m.c(x)
    return F.relu(x + m.a(x))


def test_a_layer_that_is_added_in_its_kernel_is_not_rounded_before() -> None:
    """Of two layers the later one: the other's result must have been stored by then."""
    graph = traced(added)
    found = place(graph, BitSpec(3, 8), float_epilogues=True)
    assert set(place(graph, BitSpec(3, 8)).stored) - set(found.stored) == {"b"}


def test_a_layer_that_something_else_reads_too_is_rounded_before_it_is_added() -> None:
    graph = traced(skipped)
    found = place(graph, BitSpec(3, 8), float_epilogues=True)
    assert set(place(graph, BitSpec(3, 8)).stored) - set(found.stored) == {"a"}


@pytest.mark.parametrize("function", [F.silu, F.hardswish, F.gelu, F.leaky_relu, torch.sigmoid, torch.tanh])
def test_a_layer_is_not_rounded_before_its_activation_function(function: Callable[[Tensor], Tensor]) -> None:
    graph = fold_bn(trace(Body(lambda m, x: F.relu(m.b(function(m.a(F.relu(m.c(x))))))), (3, 8, 8)))
    found = place(graph, BitSpec(3, 8), float_epilogues=True)
    assert set(place(graph, BitSpec(3, 8)).stored) - set(found.stored) == {"a"}


def readers(found: Placement, reader: str) -> set[int]:
    """Widths at which the operator reads its tensors."""
    return {width for (_, name), width in found.read.items() if name == reader}


def chain(m: Body, x: Tensor) -> Tensor:
    return F.relu(m.b(F.relu(m.a(F.relu(m.c(x))))))


def test_layers_have_the_asked_widths_and_read_at_the_asked_widths() -> None:
    found = placed(chain)
    assert [(p.name, p.kind) for p in found.layers] == [
        ("c", "conv"),
        ("a", "conv"),
        ("b", "conv"),
        ("linear", "linear"),
    ]
    assert {p.weight_bits for p in found.layers} == {3}
    assert readers(found, "a") == readers(found, "b") == {4}


def test_the_image_is_read_at_8_bits() -> None:
    found = placed(chain)
    assert readers(found, "c") == {8}
    assert (found.stored["x"], found.input_bits) == (8, 8)


def test_an_image_that_is_padded_first_is_still_read_at_8_bits() -> None:
    found = placed(lambda m, x: F.relu(m.a(F.relu(m.c(F.pad(x, (0, 1, 0, 1)))))))
    assert readers(found, "c") == {8}


def test_the_last_linear_layer_reads_at_8_bits() -> None:
    found = placed(chain)
    assert readers(found, "linear") == {8}
    assert found.last_input_bits == 8


def test_a_last_convolution_reads_at_the_activation_bits() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))

    found = place(trace(Convolutional(), (3, 8, 8)), BitSpec(4, 4))
    assert readers(found, "b") == {4}
    assert found.last_input_bits == 4


def test_the_logits_are_not_quantized() -> None:
    assert "linear" not in placed(chain).stored


def test_an_activation_that_clips_is_one_tensor_with_the_operator_before_it() -> None:
    found = placed(chain)
    assert set(found.stored) == {"x", "relu_default", "relu_default_1", "relu_default_2", "mean_dim"}


def test_a_tensor_that_is_clipped_and_read_elsewhere_is_stored_for_itself() -> None:
    def body(m: Body, x: Tensor) -> Tensor:
        y = m.c(x)
        return F.relu(y) + y

    found = placed(body)
    assert found.stored["c"] == 8
    assert found.stored["relu_default"] == 8


def test_an_addition_reads_at_8_bits_and_a_convolution_beside_it_at_fewer() -> None:
    def body(m: Body, x: Tensor) -> Tensor:
        y = F.relu(m.c(x))
        return y + m.a(y)

    found = placed(body)
    assert readers(found, "add_tensor") == {8}
    assert readers(found, "a") == {4}
    assert found.stored["relu_default"] == 8
    assert found.stored["a"] == 8
    assert found.residual == "8"

    shared = placed(body, residual="shared")
    assert shared.read["relu_default", "add_tensor"] == 4  # as the convolution reads it
    assert shared.read["a", "add_tensor"] == 8  # no convolution reads this one
    assert shared.stored["relu_default"] == 4
    assert shared.residual == "shared"


def test_concatenations_read_at_8_bits() -> None:
    found = placed(lambda m, x: F.relu(torch.cat([m.a(y := F.relu(m.c(x))), m.b(y)], 1))[:, :4])
    assert readers(found, "cat_default") == {8}


@pytest.mark.parametrize("pool", [lambda x: F.avg_pool2d(x, 2), lambda x: F.adaptive_avg_pool2d(x, 2)])
def test_average_pooling_reads_at_8_bits_and_makes_a_tensor_of_its_own(
    pool: Callable[[Tensor], Tensor],
) -> None:
    found = placed(lambda m, x: F.relu(m.a(pool(F.relu(m.c(x))))))
    assert found.stored["relu_default"] == 8
    assert {width for node, width in found.stored.items() if "pool" in node} == {4}


def test_max_pooling_passes_the_codes_through() -> None:
    found = placed(lambda m, x: F.relu(m.a(F.max_pool2d(F.relu(m.c(x)), 2))))
    assert not any("pool" in node for node in found.stored)
    assert found.read["relu_default", "a"] == 4
    assert found.stored["relu_default"] == 4


@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("slice", lambda y: y[:, :, ::2]),
        ("transpose", lambda y: y.transpose(2, 3)),
        ("permute", lambda y: y.permute(0, 1, 3, 2)),
        ("zero padding", lambda y: F.pad(y, (1, 1))),
        ("chunk", lambda y: y.chunk(2, dim=2)[1]),
        ("split", lambda y: y.split([1, 5], dim=2)[1]),
        ("reshape", lambda y: y.reshape(y.shape[0], 4, 4, 9)),
    ],
)
def test_operators_that_move_values_pass_the_codes_through(
    name: str, move: Callable[[Tensor], Tensor]
) -> None:
    found = placed(lambda m, x: F.relu(m.a(move(F.relu(m.c(x))))))
    assert set(found.stored) == {"x", "relu_default", "relu_default_1", "mean_dim"}
    assert found.stored["relu_default"] == 4


@pytest.mark.parametrize("mode", ["reflect", "replicate", "ones"])
def test_padding_with_other_values_is_no_move(mode: str) -> None:
    def body(m: Body, x: Tensor) -> Tensor:
        y = F.relu(m.c(x))
        y = F.pad(y, (1, 1, 1, 1), value=1.0) if mode == "ones" else F.pad(y, (1, 1, 1, 1), mode)
        return F.relu(m.a(y))

    found = placed(body)
    assert found.stored["relu_default"] == 8
    assert found.stored["pad_default"] == 4


def test_relu6_bounds_the_range_at_6_and_other_bounds_hold_too() -> None:
    found = placed(lambda m, x: F.hardtanh(m.a(F.relu6(m.c(x))), 0.0, 4.0))
    assert sorted(found.ceilings.values()) == [4.0, 6.0]
    assert set(found.ceilings) <= set(found.stored)


def test_a_hardtanh_below_zero_is_an_ordinary_function() -> None:
    found = placed(lambda m, x: F.relu(m.a(F.hardtanh(m.c(x)))))
    assert found.stored["c"] == 8
    assert found.ceilings == {}


def test_attention_scores_stay_float() -> None:
    found = placed(lambda m, x: F.relu(m.a(F.relu(m.c(x)))) @ torch.softmax(m.b(F.relu(m.c(x))), -1))
    assert not any("softmax" in node for node in found.stored)


def test_what_something_is_divided_by_stays_float() -> None:
    """Linear attention: numerator and denominator come out of one product."""

    def body(m: Body, x: Tensor) -> Tensor:
        product = F.relu(m.a(F.relu(m.c(x)))) @ F.relu(m.b(F.relu(m.c(x))))
        return F.relu(m.a(product[..., :-1] / (product[..., -1:] + 1e-15)))

    found = placed(body)
    assert not any(name.startswith(("matmul", "add")) for name in found.stored)
    assert any(name.startswith("div") for name in found.stored)
    assert (
        "relu_default_3"
        in placed(lambda m, x: F.relu(m.a(F.relu(m.c(x)))) / 2 + F.relu(m.b(F.relu(m.c(x))))).stored
    )


def test_every_tensor_of_a_squeeze_and_excitation_block_is_placed() -> None:
    found = place(fold_bn(small.teacher("gated")), BitSpec(4, 4))
    gate = next(node for node, _ in found.read if node.startswith("hardsigmoid"))
    product = next(reader for node, reader in found.read if node == gate)
    assert readers(found, product) == {8}
    assert readers(found, "squeeze") == readers(found, "excite") == {4}
    assert found.stored["excite"] == 8  # HardSigmoid reads it


def test_first_last_sets_the_weights_of_the_first_and_the_last_layer() -> None:
    found = placed(chain, first_last=8)
    assert [p.weight_bits for p in found.layers] == [8, 3, 3, 8]


def test_overrides_set_both_widths_and_the_last_match_wins() -> None:
    overrides = {
        "*": LayerBits(weight=5),
        "[ab]": LayerBits(weight=6, activation=6),
        "b": LayerBits(activation=2),
    }
    found = placed(chain, first_last=8, overrides=overrides)
    assert {p.name: (p.weight_bits, p.activation_bits) for p in found.layers} == {
        "c": (5, 8),
        "a": (6, 6),
        "b": (6, 2),
        "linear": (5, 8),
    }
    assert readers(found, "b") == {2}


def test_an_override_may_narrow_the_image_and_the_last_input() -> None:
    overrides = {"c": LayerBits(activation=6), "linear": LayerBits(activation=5)}
    found = placed(chain, overrides=overrides)
    assert (found.input_bits, found.last_input_bits) == (6, 5)


def test_an_override_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SpecError) as caught:
        placed(chain, overrides={"layer9.*": LayerBits(weight=4)})
    assert (caught.value.code, caught.value.field) == ("override_matches_nothing", "bits.overrides")
    assert "layer9.*" in caught.value.detail
    assert "linear" in caught.value.detail


def test_a_network_without_layers_is_refused() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x).mean((2, 3))

    with pytest.raises(SpecError) as caught:
        place(trace(Empty(), (3, 8, 8)), BitSpec(4, 4))
    assert caught.value.code == "nothing_to_quantize"


def test_a_layer_that_runs_twice_is_listed_once() -> None:
    found = place(fold_bn(small.teacher("twice")), BitSpec(4, 4))
    assert [p.name for p in found.layers] == ["stem.0", "shared.0", "linear"]


def test_kinds_of_convolutions_are_told_apart() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 4, 1, groups=4),
                nn.Conv2d(4, 4, 1, groups=2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3))

    assert [p.kind for p in place(trace(Kinds(), (3, 8, 8)), BitSpec(4, 4)).layers] == [
        "conv",
        "depthwise",
        "grouped",
    ]


def test_the_exporter_moves_exactly_what_placement_lets_pass() -> None:
    padding = {aten.pad.default, aten.constant_pad_nd.default}
    assert set(MOVES) - padding == rules.PASSTHROUGH - set(rules.SPLITS)


@pytest.mark.parametrize("name", small.NETWORKS)
def test_whatever_a_layer_or_an_operator_reads_is_stored(name: str) -> None:
    """Nothing is silently float: every operator's inputs are stored tensors or moved from one."""
    graph = fold_bn(small.teacher(name))
    found = place(graph, BitSpec(4, 4))
    constants = rules.constant_nodes(graph)
    for node in graph.graph.nodes:
        if node in constants or node.op in ("placeholder", "output") or rules.shape_of(node) is None:
            continue
        if is_passthrough(graph, node) or rules.ceiling_of(node) is not None:
            continue
        for source in node.all_input_nodes:
            if source in constants or rules.shape_of(source) is None:
                continue
            if source.target in rules.FLOAT_RESULTS:
                continue
            while is_passthrough(graph, source):
                source = source.args[0]  # type: ignore[assignment]
            assert source.name in found.stored, f"{node.name} reads {source.name} in float"
            assert found.read[source.name, node.name] <= found.stored[source.name]
