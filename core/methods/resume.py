"""A training goes on where an earlier attempt saved it, or begins anew and says why."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from core.errors import Stopped
from core.fake_quant.insert import Student
from core.methods import saved_state
from core.methods.attempt import Attempt
from core.methods.training import T, Training


def resumed(attempt: Attempt, build: Callable[[], T]) -> Training[T] | None:
    """The training that `attempt.context.resume_from` holds; None where there is none that can be used.

    `build` makes the trainee of a student that nobody prepared. Where nothing comes of it, the student and
    all random numbers are as they were.
    """
    path = attempt.context.resume_from
    if path is None:
        return None
    before = deepcopy(attempt.student.state_dict())
    trainee: T | None = None
    try:
        state = saved_state.read(path, attempt.identity)
        trainee = build()
        return _restored(attempt, trainee, state)
    except Stopped:
        raise
    except Exception as error:  # of every kind: the file may hold anything
        why = str(error) if isinstance(error, saved_state.Foreign) else "it cannot be read"
    attempt.notes.append(f"What an earlier attempt saved was not used: {why}. The method began anew.")
    _reset(attempt.student, before)
    if trainee is not None:
        trainee.restored()
    attempt.context.seed_everything()
    return None


def _restored(attempt: Attempt, trainee: T, state: dict[str, Any]) -> Training[T]:
    trainee.load_state_dict(state["trainee"])
    held_back = None
    if (stop := state["stop"]) is not None:
        device = attempt.context.device
        held_back = stop["images"].to(device), stop["wanted"].to(device)
    training = Training(trainee, attempt, held_back)
    training.load_state_dict(state)
    return training


def _reset(student: Student, state: dict[str, Any]) -> None:
    for layer in student.layers().values():
        layer.input_scale = layer.output_scale = None
    student.load_state_dict(state)
    student.learn_ranges(False)
