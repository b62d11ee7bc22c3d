from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.fixture
def table() -> ModuleType:
    return importlib.import_module("accuracy_table")


def row(
    images: str = "sharp.npz", seed: int = 0, bits: str = "w4a4", below: str = "1.50", **cells: str
) -> dict[str, str]:
    return {
        "network": "cifar/resnet20",
        "bits": bits,
        "method": 'gdfq {"budget": {"iterations": 30}}',
        "images": images,
        "count": "200",
        "seed": str(seed),
        "float32": "91.50 / 99.50",
        "round to nearest": "85.00 / 98.00",
        "result in torch": "–",
        "result's file": "90.00 / 99.00",
        "below float32": below,
        "method, wall s": "3.1",
        "method, processor s": "3.0",
    } | cells


def test_what_is_rendered_is_read_back(table: ModuleType) -> None:
    rows = [row(seed=seed) for seed in (0, 1)]
    text = table.render(["# Title", "", "Some | words."], rows)
    assert table.read(text) == rows
    assert table.render(["# Title", "", "Some | words."], table.read(text)) == text


def test_a_file_with_other_columns_is_refused_and_not_lost(table: ModuleType) -> None:
    with pytest.raises(ValueError, match="below float32"):
        table.read("# Title\n\n| network | bits |\n| --- | --- |\n| a | w4a4 |\n")


def test_a_measurement_made_again_replaces_the_old_one(table: ModuleType) -> None:
    old = [row(seed=0), row(seed=1), row(images="blurred.tar")]
    again = row(seed=1, below="-0.25")
    merged = table.merge(old, [again])
    assert len(merged) == 3
    assert again in merged and old[1] not in merged


@pytest.mark.parametrize("column", ["network", "method", "images", "count"])
def test_another_measurement_is_kept_beside_it(table: ModuleType, column: str) -> None:
    other = row() | {column: "999"}
    assert sorted(table.merge([row()], [other]), key=str) == sorted([row(), other], key=str)


def test_rows_are_ordered_whatever_came_first(table: ModuleType) -> None:
    rows = [row(bits=bits, seed=seed) for bits in ("w8a8", "w4a8", "w4a4") for seed in (0, 2, 10)]
    assert table.merge(rows[5:], rows[:5]) == rows
    assert table.merge(reversed(rows), []) == rows


def test_the_summary_is_the_mean_over_the_seeds_and_over_the_sets(table: ModuleType) -> None:
    rows = [
        row(seed=0, below="1.00"),
        row(seed=1, below="2.00", **{"round to nearest": "87.00 / 98.00"}),
        row(images="blurred.tar", seed=0, below="-0.50"),
        row(images="blurred.tar", seed=1, below="0.50"),
    ]
    sharp, blurred, both = table.summarize(rows)
    assert sharp["images"] == "sharp.npz, 200" and sharp["seeds"] == "0, 1"
    assert (sharp["round to nearest"], sharp["result"], sharp["result by seed"]) == (
        "5.50",
        "1.50",
        "1.00, 2.00",
    )
    assert (blurred["result"], blurred["result by seed"]) == ("0.00", "-0.50, 0.50")
    assert both["images"] == "mean of the 2 sets"
    assert (both["round to nearest"], both["result"], both["result by seed"]) == (
        "6.00",
        "0.75",
        "0.25, 1.25",
    )


def test_sets_with_different_seeds_have_no_common_mean(table: ModuleType) -> None:
    rows = [row(seed=0), row(seed=1), row(images="blurred.tar", seed=0)]
    assert [found["seeds"] for found in table.summarize(rows)] == ["0, 1", "0"]


def test_the_same_images_counted_twice_have_no_common_mean(table: ModuleType) -> None:
    found = table.summarize([row(), row(count="50")])
    assert [entry["images"] for entry in found] == ["sharp.npz, 200", "sharp.npz, 50"]
