"""The student: quantizers where placement says, foldable later or at once, copied and saved whole."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from core.errors import SpecError
from core.fake_quant.insert import Student, build_student, parameters_in_groups
from core.fake_quant.modules import ActivationQuantizer, QuantConv2d, QuantLinear
from core.fake_quant.observers import MinMax
from core.networks.graph import module_of, stage_outputs, with_outputs
from core.spec import PROFILES, BitSpec, LayerBits
from tests.core import small


@pytest.mark.parametrize("profile", ["packed", "tensorrt"])
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_an_8_bit_student_is_close_to_its_teacher(name: str, fold: bool, profile: str) -> None:
    x = small.images(16)
    expected = small.teacher(name)(x)
    found = small.student(name, "w8a8", fold=fold, profile=profile)(x)
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(
    ("profile", "bits"), [("packed", "w4a4"), ("portable", "w4a4"), ("tensorrt", "w4a8")]
)
@pytest.mark.parametrize("name", small.NETWORKS)
@torch.no_grad()
def test_a_student_folded_later_agrees_with_itself(name: str, profile: str, bits: str) -> None:
    """Exactly but for rounding ties: at most a few values move, by a step."""
    student = small.student(name, bits, fold=False, profile=profile)
    x = small.images(32, 1)
    before, after = student(x), student.folded()(x)
    assert float((after - before).norm() / before.norm()) < 0.05
    assert float((after.argmax(1) == before.argmax(1)).float().mean()) > 0.95


@pytest.mark.parametrize("name", ["plain", "depthwise", "concat"])
@torch.no_grad()
def test_folding_later_and_at_once_give_the_same_network(name: str) -> None:
    late, early = small.student(name, "w8a8", fold=False).folded(), small.student(name, "w8a8")
    assert [n.name for n in late.graph.graph.nodes] == [n.name for n in early.graph.graph.nodes]
    assert set(late.state_dict()) == set(early.state_dict())
    for key, layer in early.layers().items():
        assert torch.allclose(late.layers()[key].weight, layer.weight, atol=1e-6)
    x = small.images(16)
    assert float((late(x) - early(x)).norm() / early(x).norm()) < 0.02


def test_a_student_that_keeps_its_norms_trains_them_and_its_copy_is_folded() -> None:
    student = small.student("plain", fold=False)
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    student.train()
    student(small.images(4)).sum().backward()
    assert all(m.weight.grad is not None for m in norms)
    folded = student.folded()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in student.modules()) == 3
    assert not folded.training


@pytest.mark.parametrize("profile", PROFILES)
def test_everything_is_on_the_grids_of_the_profile(profile: str) -> None:
    grids, student = PROFILES[profile].grids, small.student("depthwise", "w4a8", profile=profile)
    assert student.grids == student.folded().grids == grids
    for layer in student.layers().values():
        assert (layer.grid().low < 0) == grids.symmetric_weights
        assert bool(layer.grid().zero_point.any()) != grids.symmetric_weights
    for quantizer in student.activation_quantizers().values():
        assert (quantizer.low, quantizer.high) == ((-128, 127) if grids.signed_activations else (0, 255))


def test_the_teacher_is_left_as_it_is() -> None:
    teacher = small.teacher("residual")
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = build_student(teacher, BitSpec(4, 4))
    with torch.no_grad(), student.observing():
        student(small.images(4))
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any(isinstance(m, QuantConv2d | QuantLinear) for m in teacher.modules())


def test_a_narrow_reader_gets_a_second_quantizer_behind_the_first() -> None:
    student = small.student("residual", "w4a4")
    narrow = [n for n in student.activation_quantizers() if n.endswith("_4bit")]
    assert len(narrow) == 1  # before the second convolution; the shortcut reads at 8 bits
    (node,) = (n for n in student.graph.graph.nodes if str(n.target).endswith(narrow[0]))
    wide = module_of(student.graph, node.args[0])
    assert isinstance(wide, ActivationQuantizer) and wide.bits == 8
    readers = {str(user.target) for user in node.users}
    assert readers == {"second.0"}


def test_a_shared_residual_needs_no_second_quantizer() -> None:
    bits = BitSpec(4, 4, residual="shared")
    assert not any(name.endswith("bit") for name in small.student("residual", bits).activation_quantizers())


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_every_tensor_takes_as_many_values_as_its_bits_allow(name: str, fold: bool) -> None:
    student = small.student(name, "w3a3", fold=fold)
    seen: list[tuple[int, int]] = []

    def watch(quantizer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(quantizer, ActivationQuantizer)
        seen.append((output.unique().numel(), 2**quantizer.bits))

    for quantizer in student.activation_quantizers().values():
        quantizer.register_forward_hook(watch)
    student(small.images(8, 1))
    assert len(seen) == len(student.activation_quantizers())
    assert all(values <= allowed for values, allowed in seen)


def reads(student: Student) -> dict[str, str | None]:
    names = {id(q): name for name, q in student.activation_quantizers().items()}
    return {name: names.get(id(layer.reads)) for name, layer in student.layers().items()}


def test_layers_know_the_quantizer_whose_codes_they_read() -> None:
    student = small.student("plain")
    assert reads(student) == {
        "first.0": "x",
        "second.0": "relu_default",  # behind max-pooling
        "third.0": "relu_default_1",
        "linear": "mean_dim",
    }


@pytest.mark.parametrize("fold", [True, False])
def test_a_copy_is_wired_to_its_own_quantizers(fold: bool) -> None:
    student = small.student("residual", fold=fold)
    for copy in (deepcopy(student), student.folded()):
        assert reads(copy) == reads(student)
        own = {id(q) for q in copy.activation_quantizers().values()}
        assert own.isdisjoint(id(q) for q in student.activation_quantizers().values())


@pytest.mark.parametrize("fold", [True, False])
def test_a_state_dict_brings_a_fresh_student_to_the_same_outputs(fold: bool) -> None:
    student = small.student("concat", fold=fold)
    fresh = build_student(small.teacher("concat"), student.bits, fold=fold)
    x = small.images(8, 2)
    assert not torch.equal(fresh(x), student(x))
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(fresh(x), student(x))


def test_observing_sets_ranges_from_rounded_inputs_and_then_stops() -> None:
    student = build_student(small.teacher("plain"), BitSpec(4, 4))
    assert not any(bool(q.calibrated) for q in student.activation_quantizers().values())
    with torch.no_grad(), student.observing(MinMax):
        student(small.images(8))
    scales = {name: q.scale.clone() for name, q in student.activation_quantizers().items()}
    assert all(bool(q.calibrated) for q in student.activation_quantizers().values())
    student(100 * small.images(8))
    assert all(torch.equal(q.scale, scales[name]) for name, q in student.activation_quantizers().items())


def test_learning_reaches_every_scale_and_can_be_ended() -> None:
    student = small.student("depthwise")
    scales = student.learn_ranges(True)
    student(small.images(4)).square().sum().backward()
    assert len(scales) == len(student.activation_quantizers())
    assert all(scale.grad is not None for scale in scales)
    with torch.no_grad():
        for scale in scales:
            scale.fill_(1e3)
    student.constrain()
    bounded = [q for q in student.activation_quantizers().values() if q.ceiling is not None]
    assert bounded
    assert all(float(q.scale.detach()) * q.high <= 6.0001 for q in bounded)
    student.learn_ranges(False)
    assert not any(scale.requires_grad for scale in scales)


def test_parameters_fall_into_two_groups() -> None:
    student = small.student("plain", fold=False)
    weights, scales = parameters_in_groups(student)
    assert {id(p) for p in [*weights, *scales]} == {id(p) for p in student.parameters()}
    assert len(scales) == len(student.activation_quantizers())
    assert {id(p) for p in weights}.isdisjoint(id(p) for p in scales)


@pytest.mark.parametrize("fold", [True, False])
@torch.no_grad()
def test_features_are_asked_for_by_the_teachers_names(fold: bool) -> None:
    teacher = small.teacher("residual")
    student = small.student("residual", "w8a8", fold=fold)
    norm = next(n.name for n in teacher.graph.nodes if isinstance(module_of(teacher, n), nn.BatchNorm2d))
    names = [*stage_outputs(teacher), norm]
    x = small.images(4)
    logits, features = student.with_outputs(names)(x)
    assert torch.equal(logits, student(x))
    assert len(features) == len(names) >= 2
    _, expected = with_outputs(teacher, names)(x)
    for found, wanted in zip(features, expected, strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_asking_for_features_shares_the_weights() -> None:
    student = small.student("plain")
    view = student.with_outputs(stage_outputs(small.teacher("plain")))
    with torch.no_grad():
        student.layers()["linear"].weight.zero_()
    assert torch.equal(view(small.images(2))[0], student(small.images(2)))


def test_layers_stand_in_the_order_in_which_they_run() -> None:
    student = small.student("depthwise", BitSpec(4, 4, overrides={"*.0": LayerBits(weight=6)}))
    assert list(student.layers()) == ["stem.0", "expand.0", "depthwise.0", "project.0", "linear"]
    assert [layer.bits for layer in student.layers().values()] == [6, 6, 6, 6, 4]


def test_idle_overrides_are_refused() -> None:
    with pytest.raises(SpecError):
        build_student(small.teacher("plain"), BitSpec(4, 4, overrides={"nothing": LayerBits(weight=4)}))


def test_a_student_runs_at_any_batch_size() -> None:
    student = small.student("plain")
    x = small.images(3)
    one_by_one = torch.cat([student(image[None]) for image in x])
    assert torch.allclose(student(x), one_by_one, atol=1e-5)
