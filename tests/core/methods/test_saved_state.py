"""What a saved state is made of, and whose it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from core.methods import saved_state
from core.methods.saved_state import Foreign, TooLarge, identity, read, write
from core.networks import archive
from core.spec import ExportConfig
from tests.core.methods.interrupted import Attempts
from tests.core.methods.trained import GDFQ, GDFQ_PAPER, ZAQ, ZAQ_PAPER, TrainedConfig, student_of

PLAIN = (Tensor, int, float, str, bool, type(None))


def leaves(value: Any) -> list[Any]:
    if type(value) in (dict, list, tuple):
        children = value.values() if isinstance(value, dict) else value
        return [leaf for child in children for leaf in leaves(child)]
    return [value]


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("config", [ZAQ, ZAQ_PAPER, GDFQ, GDFQ_PAPER])
def test_a_state_is_tensors_numbers_strings_and_plain_containers(
    teacher: fx.GraphModule, tmp_path: Path, config: TrainedConfig
) -> None:
    attempts = Attempts(teacher, config, tmp_path)
    attempts.hand_back(after=2)
    path = attempts.kept[-1]
    found = torch.load(path, weights_only=True)
    assert {type(leaf) for leaf in leaves(found)} <= set(PLAIN)
    assert found["state"]["clock"]["iterations"] == 2
    student = student_of(teacher, config)
    assert read(path, identity(config.resolved(), student, seed=0)).keys() == found["state"].keys()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": GDFQ}, "another method"),
        ({"config": replace(ZAQ, student_lr=0.5)}, "other settings"),
        ({"config": replace(ZAQ, preset="paper", student_lr=0.5)}, "other settings"),
        ({"seed": 1}, "another seed"),
        ({"bits": "w4a4"}, "other bits"),
        ({"grids": ExportConfig("portable").grids}, "other bits"),
    ],
)
def test_a_state_is_read_by_its_own_run_alone(
    teacher: fx.GraphModule, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    def whose(seed: int = 0, config: TrainedConfig = ZAQ, **options: Any) -> saved_state.Identity:
        return identity(config.resolved(), student_of(teacher, config, **options), seed)

    path = write(tmp_path, whose(), {"x": 1})
    assert read(path, whose()) == {"x": 1}
    with pytest.raises(Foreign, match=reason):
        read(path, whose(**change))


def test_of_another_network_version_or_format(
    teacher: fx.GraphModule,
    teacher_without_bn: fx.GraphModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whose(network: fx.GraphModule = teacher) -> saved_state.Identity:
        config = replace(ZAQ, fold_bn=False, start="nearest")
        return identity(config.resolved(), student_of(network, config), 0)

    path = write(tmp_path, whose(), {})
    with pytest.raises(Foreign, match="another network"):
        read(path, whose(teacher_without_bn))
    for name, value in (("__version__", "0.0.9"), ("FORMAT", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(saved_state, name, value)
            older = write(tmp_path, whose(), {})
        with pytest.raises(Foreign, match="another version of this service"):
            read(older, whose())


def test_every_file_has_a_name_of_its_own_and_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    paths = {write(tmp_path, {}, {"x": torch.zeros(3)}) for _ in range(3)}
    assert set(tmp_path.iterdir()) == paths and len(paths) == 3

    def unwritable() -> None:
        raise AssertionError

    with pytest.raises(Exception, match="pickle"):
        write(tmp_path, {}, {"x": unwritable})
    assert set(tmp_path.iterdir()) == paths


def test_what_would_be_too_large_to_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    whose = dict.fromkeys(("format", "version", "method", "settings", "seed", "bits", "network"), "mine")
    outcomes = []
    for size in (50_000, 99_000, 100_000, 101_000):
        state = {"x": [torch.zeros(size, dtype=torch.uint8)]}
        try:
            path = write(tmp_path, whose, state)
        except TooLarge as error:
            assert "100,000 are read back" in str(error)
            outcomes.append("refused")
        else:
            assert len(read(path, whose)["x"][0]) == size
            outcomes.append("read back")
            path.unlink()
        assert list(tmp_path.iterdir()) == []
    assert outcomes[0] == "read back" and outcomes[2:] == ["refused", "refused"]


def test_tensors_that_share_their_memory_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    x = torch.zeros(60_000, dtype=torch.uint8)
    assert write(tmp_path, {}, {"x": x, "views": (x[:3], {"y": x.view(6, -1)})}).exists()
    with pytest.raises(TooLarge):
        write(tmp_path, {}, {"x": x, "copy": x.clone()})


def test_nothing_of_what_is_too_large_is_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes take longer than a worker has that is told to stop."""
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("it was written"))
    with pytest.raises(TooLarge):
        write(tmp_path, {}, {"x": torch.zeros(100_001, dtype=torch.uint8)})
