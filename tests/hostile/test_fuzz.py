"""Some inputs of each kind, the same at every run; `benchmarks/fuzz_uploads.py` goes on for longer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generated import REPEATABLE
from tests.hostile import mutations as made
from tests.hostile.targets import Targets

FEW = settings(REPEATABLE, max_examples=150)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return Targets(tmp_path_factory.mktemp("fuzz"))


@FEW
@given(data=made.CHECKPOINTS)
def test_checkpoints_with_changed_bytes(targets: Targets, data: bytes) -> None:
    targets.checkpoint(data)


@FEW
@given(data=made.PICKLES)
def test_pickles_of_any_instructions(targets: Targets, data: bytes) -> None:
    targets.checkpoint(data)


@FEW
@given(data=st.one_of(made.DATASETS, made.TGZ, made.PICTURES))
def test_evaluation_sets_with_changed_bytes(targets: Targets, data: bytes) -> None:
    targets.dataset(data)


@FEW
@given(data=made.FORMS, splits=made.SPLITS)
def test_forms_in_any_pieces(targets: Targets, data: bytes, splits: list[int]) -> None:
    targets.form(data, splits)


@FEW
@given(data=made.FORMS, content_type=made.CONTENT_TYPES, query=made.QUERIES, splits=made.SPLITS)
def test_uploads_of_any_type(
    targets: Targets, data: bytes, content_type: str, query: list[tuple[str, str]], splits: list[int]
) -> None:
    targets.upload(data, content_type, query, splits)


@FEW
@given(metadata=made.METADATA, checksum=made.CHECKSUMS, length=made.LENGTHS)
def test_any_headers_of_tus(targets: Targets, metadata: str, checksum: str, length: str) -> None:
    targets.tus(metadata, checksum, length)


@FEW
@given(value=made.RANGES)
def test_any_range(targets: Targets, value: str) -> None:
    targets.range(value)
