"""What a doctor finds: checks that may fail or hang, each with a time limit and a word on what to do.

`python -m store.doctor`, `api.doctor` and `worker.doctor` print such findings as JSON; `zsq doctor`
shows them all.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from store.logging import without_secrets

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do, where there is something to do."""

    check: str
    level: Level
    detail: str
    advice: str | None = None


class Failure(Exception):
    """What a check raises when it knows what is wrong."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.detail, self.advice = detail, advice


@dataclass(frozen=True, slots=True)
class Check:
    """`ask` returns what it found, or raises. `advice` is for errors that nobody foresaw."""

    name: str
    ask: Callable[[], str | Finding]
    advice: str
    seconds: float = 8.0


def examine(checks: Sequence[Check]) -> list[Finding]:
    """All at the same time; one that hangs is a failure when its time is up."""
    running = [_Running(check) for check in checks]
    return [each.finding() for each in running]


class _Running:
    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: Finding | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finding(self) -> Finding:
        self._thread.join(self._check.seconds)
        if self._found is not None:
            return self._found
        detail = f"no answer within {self._check.seconds:g} s"
        return Finding(self._check.name, "failure", detail, self._check.advice)

    def _run(self) -> None:
        name = self._check.name
        try:
            found = self._check.ask()
            self._found = found if isinstance(found, Finding) else Finding(name, "ok", found)
        except Failure as error:
            self._found = Finding(name, "failure", error.detail, error.advice)
        except Exception as error:
            said = str(error.__cause__ or error).strip().partition("\n")[0]
            detail = without_secrets(f"{type(error).__name__}: {said}")[:300]
            self._found = Finding(name, "failure", detail, self._check.advice)


def settings_finding(name: str, kind: type[BaseSettings]) -> Finding:
    """Whether the environment and `.env` make valid settings."""
    try:
        kind()
    except ValidationError as error:
        wrong = "; ".join(f"{_variable(each['loc'])}: {each['msg']}" for each in error.errors())
        return Finding(name, "failure", without_secrets(wrong), "Correct it in the environment or in .env.")
    except Exception as error:  # an unreadable .env
        return Finding(name, "failure", without_secrets(str(error)), "Correct .env.")
    return Finding(name, "ok", "valid")


def variables(*kinds: type[BaseSettings]) -> list[str]:
    return sorted({f"ZSQ_{name.upper()}" for kind in kinds for name in kind.model_fields})


def tell(findings: Iterable[Finding], known: Iterable[str] = ()) -> None:
    """Prints them with the settings' names, and ends the process: a check that hangs must not hold it."""
    json.dump({"findings": [asdict(finding) for finding in findings], "settings": list(known)}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


def _variable(location: Sequence[object]) -> str:
    return f"ZSQ_{str(location[0]).upper()}" if location else "settings"
