"""Errors keep their code and field on the way from the child process to its parent."""

from __future__ import annotations

import errno
import pickle
import re

import pytest
import torch

from core import errors
from core.errors import InputError, OutOfMemory, SpecError, Stopped, ZsqError, is_out_of_memory


def tree(kind: type[ZsqError] = ZsqError) -> list[type[ZsqError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


@pytest.mark.parametrize("kind", tree())
def test_an_error_survives_pickling(kind: type[ZsqError]) -> None:
    sent = kind("What is wrong.", code="some_code", field="bits")
    found = pickle.loads(pickle.dumps(sent))
    assert type(found) is kind
    assert (str(found), found.detail, found.code, found.field) == (
        "What is wrong.",
        "What is wrong.",
        "some_code",
        "bits",
    )


@pytest.mark.parametrize("kind", tree())
def test_every_error_has_a_snake_case_code_and_is_drawn_in_the_tree(kind: type[ZsqError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind("x").code)
    assert errors.__doc__ is not None
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)


def test_what_the_user_sent_is_not_tried_again() -> None:
    assert not any(kind.retryable for kind in tree(InputError))
    assert not any(kind.retryable for kind in tree(Stopped))


def test_the_code_may_be_more_special_than_the_class() -> None:
    assert SpecError("x").code == "invalid_spec"
    assert SpecError("x", code="override_matches_nothing").code == "override_matches_nothing"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
        (OutOfMemory("The job needs more memory than there is."), False),
    ],
)
def test_running_out_of_memory_has_many_names(error: Exception, expected: bool) -> None:
    """What core has already said in its own words is not said again."""
    assert is_out_of_memory(error) is expected
