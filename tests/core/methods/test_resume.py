"""An interrupted run ends as an unbroken one does; what cannot be used is not, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from core.errors import Canceled
from core.methods import gdfq, registry, save_point, zaq
from core.methods.attempt import Attempt
from core.methods.early_stop import EVERY
from core.methods.resume import resumed
from core.spec import Budget
from tests.core import small
from tests.core.methods.interrupted import Attempts, same
from tests.core.methods.trained import GDFQ, GDFQ_PAPER, ZAQ, ZAQ_PAPER, TrainedConfig, context, student_of

TEN = Budget(iterations=10)
SERVICE = {
    "zaq": replace(ZAQ, budget=TEN, student_steps=2),
    "gdfq": replace(GDFQ, budget=TEN, student_steps=2),
}
CONFIGS: dict[str, TrainedConfig] = {
    **SERVICE,
    "zaq-nearest": replace(SERVICE["zaq"], start="nearest", patience=None),
    "zaq-paper": replace(ZAQ_PAPER, budget=TEN, student_steps=2),
    "gdfq-nearest": replace(SERVICE["gdfq"], start="nearest", optimizer="adam", inundation=0.1),
    "gdfq-paper": replace(GDFQ_PAPER, budget=TEN),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
BOTH = pytest.mark.parametrize("config", SERVICE.values(), ids=SERVICE)
pytestmark = pytest.mark.usefixtures("short_calibration")


@pytest.fixture
def saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As seldom as the budget's share says, whatever it costs in a run of a second."""
    monkeypatch.setattr(save_point, "FLOOR_SECONDS", 0.0)
    monkeypatch.setattr(save_point, "TIME_SHARE", 1.0)


@EVERY_CONFIG
def test_a_run_handed_back_twice_ends_as_an_unbroken_one(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    unbroken = Attempts(teacher, config, tmp_path).run()
    attempts = Attempts(teacher, config, tmp_path)
    for after in (3, 6):
        attempts.hand_back(after)
    resumed = attempts.run()
    assert attempts.iterations == list(range(1, 11)), "no step is repeated"
    assert same(resumed, unbroken)
    notes = [f"Interrupted, and resumed after iteration {after}." for after in (3, 6)]
    assert resumed[1].notes == [*unbroken[1].notes, *notes]


@BOTH
@pytest.mark.usefixtures("saved_often")
def test_a_killed_run_repeats_a_twentieth_of_its_iterations_at_most(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    config = replace(config, budget=Budget(iterations=20), student_steps=1, patience=100)
    unbroken = Attempts(teacher, config, tmp_path).run()
    attempts = Attempts(teacher, config, tmp_path)
    attempts.kill(during=12)
    assert same(attempts.run(), unbroken)
    assert attempts.iterations == [*range(1, 13), *range(12, 21)]


@BOTH
def test_early_stop_keeps_its_best_state_and_its_patience(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    """With rates as large as these nothing after the interruption is as good as what was before it."""
    config = replace(config, student_lr=1.0, range_lr=1.0, patience=EVERY + 2, budget=Budget(iterations=20))
    unbroken = Attempts(teacher, config, tmp_path).run()
    assert unbroken[1].stopped_by == "no_progress" and unbroken[1].measures["best_iteration"] <= EVERY
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=EVERY + 1)
    assert same(attempts.run(), unbroken)


@BOTH
def test_a_halved_batch_and_a_retreat_before_the_interruption_still_hold_after_it(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in iteration 2; iterations 3 and 8 diverge and go back to the same state."""
    trainee = zaq.Game if config.name == "zaq" else gdfq.Lesson
    iterate, seen = trainee.iteration, []
    begun = 0

    def iteration(self: Any) -> dict[str, float]:
        number = begun + len(seen) + 1
        if number == 2 and self.settings.batch_size == 8:
            raise MemoryError
        seen.append(self.settings.batch_size)
        return {**iterate(self), **({"student": float("nan")} if number in (3, 8) else {})}

    monkeypatch.setattr(trainee, "iteration", iteration)
    unbroken = Attempts(teacher, config, tmp_path).run()
    assert seen == [8] + [4] * 9
    assert len([note for note in unbroken[1].notes if "diverged" in note]) == 2
    seen.clear()
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=6)
    seen.clear()
    begun = 6
    assert same(attempts.run(), unbroken)
    assert seen == [4] * 4


@BOTH
def test_a_budget_in_seconds_goes_on_counting(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which an iteration takes a second, and nothing else takes any."""
    now = [0.0]
    monkeypatch.setattr("core.methods.clock.time", SimpleNamespace(monotonic=lambda: now[0]))
    trainee = zaq.Game if config.name == "zaq" else gdfq.Lesson
    iterate = trainee.iteration

    def iteration(self: Any) -> dict[str, float]:
        now[0] += 1.0
        return iterate(self)

    monkeypatch.setattr(trainee, "iteration", iteration)
    config = replace(config, budget=Budget(seconds=10.0))
    unbroken = Attempts(teacher, config, tmp_path).run()
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=6)
    now[0] += 1000.0  # waiting for another worker is not training
    resumed = attempts.run()
    assert attempts.iterations == list(range(1, 11))
    assert resumed[1].seconds == unbroken[1].seconds == 10.0
    assert resumed[1].stopped_by == "seconds"
    assert same(resumed, unbroken)


def test_scales_of_equalized_channels_are_kept(tmp_path: Path) -> None:
    """`fast` finds them before training; the report compares layers by them."""
    teacher, config = small.teacher("depthwise"), replace(SERVICE["gdfq"], budget=Budget(iterations=2))
    scales = []
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=1)
    for last in (None, attempts.kept[-1]):
        student = student_of(teacher, config)
        registry.run(teacher, student, config, context(tmp_path, resume_from=last))
        scales.append({n: (la.input_scale, la.output_scale) for n, la in student.layers().items()})
    fresh, resumed = scales
    assert any(scale is not None for pair in fresh.values() for scale in pair)
    for name, pair in fresh.items():
        for scale, other in zip(pair, resumed[name], strict=True):
            assert (scale is None and other is None) or torch.equal(scale, other)


@BOTH
def test_a_resumed_run_prepares_nothing_and_progress_goes_on(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=6)
    reached = attempts.news[-1].fraction
    attempts.news.clear()
    for name in ("distill", "calibrate"):
        monkeypatch.setattr(f"core.methods.prepare.{name}", None)
    monkeypatch.setattr("core.methods.zaq.warm_up", None)
    monkeypatch.setattr("core.methods.gdfq.warm_up", None)
    attempts.run()
    assert [news.phase for news in attempts.news[:3]] == ["synthesizing", "training", "training"]
    first, second = attempts.news[1:3]
    assert (first.step, first.steps, second.step) == (6, 10, 7)
    assert first.fraction == pytest.approx(reached)
    assert second.eta_seconds is not None


@BOTH
def test_what_another_run_saved_is_not_used(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    """The method begins anew, says so, and ends as if there had been nothing."""
    config = replace(config, budget=Budget(iterations=2))
    other = Attempts(teacher, config, tmp_path, seed=5)
    other.hand_back(after=1)
    unbroken = Attempts(teacher, config, tmp_path).run()
    anew = Attempts(teacher, config, tmp_path).run(resume_from=other.kept[-1])
    assert same(anew, unbroken)
    said = (
        "What an earlier attempt saved was not used: it is of a run with another seed. The method began anew."
    )
    assert anew[1].notes == [said, *unbroken[1].notes]


@pytest.mark.parametrize("config", [SERVICE["zaq"], CONFIGS["zaq-paper"], SERVICE["gdfq"]])
def test_a_state_that_fits_only_in_part_leaves_no_trace(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    """Its early stop's images, losses or random numbers are unusable; its student had been loaded by then."""
    config = replace(config, budget=Budget(iterations=2))
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=1)
    unbroken = Attempts(teacher, config, tmp_path).run()
    for key, broken in {"random": {"python": None}, "history": {"names": []}, "clock": {}}.items():
        found = torch.load(attempts.kept[-1], weights_only=True)
        found["state"][key] = broken
        torch.save(found, tmp_path / "broken.pt")
        anew = Attempts(teacher, config, tmp_path).run(resume_from=tmp_path / "broken.pt")
        assert same(anew, unbroken), key
        assert "it cannot be read" in anew[1].notes[0]


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty", "missing", "another zip"])
def test_a_damaged_file_is_not_used(teacher: fx.GraphModule, tmp_path: Path, damage: str) -> None:
    config = replace(SERVICE["zaq"], budget=Budget(iterations=2))
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=1)
    path = attempts.kept[-1]
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        del content[len(content) // 2 :]
    elif damage == "one bit":
        content[content.index(b"data.pkl") + 200] ^= 0x10
    elif damage == "empty":
        content.clear()
    elif damage == "another zip":
        torch.save({"weight": torch.zeros(3)}, path)
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    student, run = student_of(teacher, config), context(tmp_path, resume_from=path)
    attempt = Attempt(student, config.resolved(), run)
    assert resumed(attempt, lambda: pytest.fail("a trainee was built")) is None
    assert "it cannot be read" in attempt.notes[0]


def test_a_pickle_in_the_file_is_not_run(teacher: fx.GraphModule, tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (proof,)

    config = SERVICE["zaq"]
    run = context(tmp_path, resume_from=path)
    attempt = Attempt(student_of(teacher, config), config.resolved(), run)
    torch.save({"identity": attempt.identity, "state": Evil()}, path)
    assert resumed(attempt, lambda: pytest.fail("a trainee was built")) is None
    assert not proof.exists()
    assert "it cannot be read" in attempt.notes[0]


def test_a_cancel_while_resuming_is_heard(teacher: fx.GraphModule, tmp_path: Path) -> None:
    def build() -> zaq.Game:
        raise Canceled("The job was canceled.")

    attempts = Attempts(teacher, SERVICE["zaq"], tmp_path)
    attempts.hand_back(after=1)
    run = context(tmp_path, resume_from=attempts.kept[-1])
    student = student_of(teacher, SERVICE["zaq"])
    with pytest.raises(Canceled):
        resumed(Attempt(student, SERVICE["zaq"].resolved(), run), build)
