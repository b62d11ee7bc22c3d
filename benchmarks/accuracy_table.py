"""The table of benchmarks/accuracy.py: rows by seed, and what they come to; read back, and merged.

A cell of accuracy is "top-1 / top-5" in percent; "below float32" is in points of top-1. Rows of the same
`KEY` are the same measurement: the later one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import markdown

Row = dict[str, str]

KEY = ("network", "bits", "method", "images", "count", "seed")
COLUMNS = (
    *KEY, "float32", "round to nearest", "result in torch", "result's file", "below float32",
    "method, wall s", "method, processor s",
)  # fmt: skip
SUMMARY = ("network", "bits", "method", "images", "seeds", "round to nearest", "result", "result by seed")


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Both in the table's order; a new row takes the place of the old one of its key."""
    by_key = {tuple(row[column] for column in KEY): row for row in (*old, *new)}
    return sorted(by_key.values(), key=_order)


def read(text: str) -> list[Row]:
    """The rows that `render` wrote. Raises ValueError where the text holds no such table."""
    lines = iter(text.splitlines())
    if markdown.line(COLUMNS) not in lines:  # goes on behind it
        raise ValueError(f"there is no table with the columns {', '.join(COLUMNS)}")
    next(lines)
    rows: list[Row] = []
    for line in lines:
        if not line.startswith("| "):
            break
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def render(heading: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [
        *heading,
        "",
        "## Points of top-1 below float32, mean over the seeds",
        "",
        *_table(SUMMARY, summarize(rows)),
        "",
        "## Every run",
        "",
        *_table(COLUMNS, rows),
    ]
    return "\n".join(lines) + "\n"


def summarize(rows: Iterable[Row]) -> list[Row]:
    """A row for each image set of a network, bits and method, then their mean where there are several."""
    groups: dict[tuple[str, ...], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        sets = groups.setdefault((row["network"], row["bits"], row["method"]), {})
        sets.setdefault((row["images"], row["count"]), []).append(row)
    found: list[Row] = []
    for key, sets in groups.items():
        for (images, count), runs in sets.items():
            found.append(_summary(key, f"{images}, {count}", _by_seed(runs)))
        if _comparable(sets):
            every = [_by_seed(runs) for runs in sets.values()]
            pairs = {
                seed: (fmean(s[seed][0] for s in every), fmean(s[seed][1] for s in every))
                for seed in every[0]
            }
            found.append(_summary(key, f"mean of the {len(sets)} sets", pairs))
    return found


def _by_seed(runs: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """(Round to nearest, the result) in points below float32, by seed."""
    return {
        row["seed"]: (_top1(row["float32"]) - _top1(row["round to nearest"]), float(row["below float32"]))
        for row in runs
    }


def _comparable(sets: dict[tuple[str, str], list[Row]]) -> bool:
    """Several sets, each once, and all with the same seeds."""
    names = {images for images, _ in sets}
    seeds = {frozenset(row["seed"] for row in runs) for runs in sets.values()}
    return len(sets) > 1 and len(names) == len(sets) and len(seeds) == 1


def _summary(key: tuple[str, ...], images: str, pairs: dict[str, tuple[float, float]]) -> Row:
    values = (
        *key,
        images,
        ", ".join(pairs),
        _points(fmean(nearest for nearest, _ in pairs.values())),
        _points(fmean(result for _, result in pairs.values())),
        ", ".join(_points(result) for _, result in pairs.values()),
    )
    return dict(zip(SUMMARY, values, strict=True))


def _points(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def _top1(cell: str) -> float:
    return float(cell.partition(" / ")[0])


def _order(row: Row) -> tuple[object, ...]:
    widest_first = [-int(bits) for bits in row["bits"].removeprefix("w").split("a")]
    return row["network"], widest_first, row["method"], row["images"], int(row["count"]), int(row["seed"])


def _table(columns: Sequence[str], rows: Iterable[Row]) -> list[str]:
    return markdown.table(columns, ([row[column] for column in columns] for row in rows))
