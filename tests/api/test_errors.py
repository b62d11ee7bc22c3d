from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import api.errors
import core.errors
import store.errors
from api.errors import STATUS, status_of


def errors_of(module: ModuleType) -> list[type[Exception]]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    return [kind for kind in kinds if kind.__module__ == module.__name__]


@pytest.mark.parametrize(
    "kind",
    [*errors_of(core.errors), *errors_of(store.errors), *errors_of(api.errors)],
    ids=lambda k: k.__name__,
)
def test_every_error_has_a_status_of_its_own(kind: type[Exception]) -> None:
    assert kind in STATUS
    assert status_of(kind("what happened")) == STATUS[kind]


def test_errors_that_come_later_take_the_nearest_status() -> None:
    class NewInput(core.errors.CheckpointError):
        pass

    assert status_of(NewInput("new")) == 422
