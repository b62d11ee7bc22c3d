"""The hostile files: what each is, how it is made, and the code with which it must be refused."""

from __future__ import annotations

from tests.hostile import container_cases, dataset_cases, pickle_cases, weight_cases
from tests.hostile.cases import Case, Cases
from worker.inspections import KindName

CHECKPOINTS: tuple[Cases, ...] = (
    *(pickle_cases.PROGRAMS, pickle_cases.BOMBS, container_cases.ZIPS, container_cases.SAFETENSORS),
    *(weight_cases.WEIGHTS, weight_cases.FOREIGN),
)
DATASETS: tuple[Cases, ...] = (dataset_cases.ARRAYS, dataset_cases.PICTURES, dataset_cases.FOLDERS)
TABLES = CHECKPOINTS + DATASETS


def _cases(kind: KindName, tables: tuple[Cases, ...]) -> dict[str, Case]:
    return {name: Case(kind, make, code) for table in tables for name, (make, code) in table.items()}


CORPUS: dict[str, Case] = _cases("checkpoint", CHECKPOINTS) | _cases("dataset", DATASETS)
