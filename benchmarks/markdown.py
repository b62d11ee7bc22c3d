"""The pages that benchmarks write: Markdown tables, and files named after hardware and day."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Its lines."""
    return [line(columns), "|" + " --- |" * len(columns), *map(line, rows)]


def records(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The table of rows that all name the same columns; at least one."""
    return table(list(rows[0]), (row.values() for row in rows))


def today() -> str:
    return datetime.date.today().isoformat()


def page(name: str, hardware: str) -> Path:
    """Beside the programs, one of a day."""
    return Path(__file__).parent / f"{name}_{hardware}_{today()}.md"


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")
