from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def markdown() -> ModuleType:
    return importlib.import_module("markdown")


def test_records_are_a_table_of_their_keys(markdown: ModuleType, tmp_path: Path) -> None:
    rows = [{"network": "a", "share %": 99.5}, {"network": "b", "share %": "none"}]
    markdown.write(tmp_path / "page.md", ["# Title", "", *markdown.records(rows)])
    assert (tmp_path / "page.md").read_text() == (
        "# Title\n\n| network | share % |\n| --- | --- |\n| a | 99.5 |\n| b | none |\n"
    )


def test_a_page_is_named_after_hardware_and_day_and_lies_beside_the_programs(markdown: ModuleType) -> None:
    page = markdown.page("latency", "amd-epyc-2core")
    assert page.name == f"latency_amd-epyc-2core_{markdown.today()}.md"
    assert page.parent == Path(__file__).parents[2] / "benchmarks"
