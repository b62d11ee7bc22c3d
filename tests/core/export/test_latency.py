"""Timings are taken in turns and come as median and 90th percentile; what they are is not asserted."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice, pairwise
from pathlib import Path

import onnx
import pytest

from core.errors import Canceled
from core.export import latency
from core.export.latency import Latency, measure_latency, orders
from core.export.onnx import export_float
from core.networks.fold_bn import fold_bn
from tests.core import small


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(export_float(fold_bn(small.teacher("plain")), small.SHAPE, small.CLASSES, {}), path)
    return path


def measure(file: Path, seconds: float = 0.0, **options: object) -> dict[str, Latency]:
    files = {"a": file, "b": file, "c": file}
    return measure_latency(files, small.SHAPE, threads=1, seconds=seconds, **options)  # type: ignore[arg-type]


def test_every_file_is_run_as_often_as_the_others(file: Path) -> None:
    found = measure(file)
    assert set(found) == {"a", "b", "c"}
    assert {entry.runs for entry in found.values()} == {5}
    assert all(0 < entry.median_ms <= entry.p90_ms for entry in found.values())
    assert all(entry.processor_ms > 0 for entry in found.values())


def test_time_buys_rounds_up_to_a_bound(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_MOST", 12)
    assert {entry.runs for entry in measure(file, 3600.0).values()} == {10}


def test_a_network_too_slow_for_five_rounds_is_measured_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_PATIENCE", 0.0)
    found = measure(file)
    assert {entry.runs for entry in found.values()} == {1}
    assert all(entry.median_ms == entry.p90_ms > 0 for entry in found.values())


def test_it_can_be_stopped_between_rounds(file: Path) -> None:
    rounds = []

    def check() -> None:
        rounds.append(1)
        if len(rounds) == 4:
            raise Canceled("The job was canceled.")

    with pytest.raises(Canceled):
        measure(file, 3600.0, check=check)
    assert len(rounds) == 4


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_file_always_follows_the_same_other(count: int) -> None:
    names = list("abcd"[:count])
    found = list(islice(orders(names), 600))
    assert all(sorted(order) == names for order in found)
    follows = Counter(pairwise(chain.from_iterable(found)))
    assert all(before != after for before, after in follows)
    assert len(follows) == count * (count - 1)
    fair = sum(follows.values()) / len(follows)
    assert all(0.8 * fair < times < 1.2 * fair for times in follows.values())


def test_one_file_alone_is_measured_too() -> None:
    assert list(islice(orders(["a"]), 3)) == [["a"]] * 3
