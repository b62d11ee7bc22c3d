"""What `zsq doctor` looks at. The server's parts look at themselves, as processes: none is imported here."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from zsq.environment import own_environment

# The variables that are no settings of the server's.
CLIENT_VARIABLES = ("ZSQ_SERVER_URL", "ZSQ_API_KEY", "ZSQ_POSTGRES_PASSWORD", "ZSQ_TORCH_INDEX")
PARTS = ("store", "api", "worker")
PART_SECONDS = 120.0
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is ok, warning or failure; `advice` says what to do."""

    check: str
    level: str
    detail: str
    advice: str | None = None


def examine(server: str, *, chosen: bool) -> list[Finding]:
    """`chosen`: somebody named the server, so it is a failure when it does not answer."""
    environment = _environment()
    with ThreadPoolExecutor(len(PARTS)) as pool:
        parts = list(pool.map(lambda part: _ask(part, environment), PARTS))
    findings = [python(), *packages()]
    known = set(CLIENT_VARIABLES)
    for found, settings in parts:
        findings += found
        known |= settings
    findings += unknown_variables(_given(), known) if all(settings for _, settings in parts) else []
    return [*findings, answers(server, chosen=chosen)]


def python() -> Finding:
    detail = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", "failure", detail, "zsq needs Python 3.11 or newer.")
    return Finding("Python", "ok", detail)


def packages() -> list[Finding]:
    """Whether what the extras `api` and `worker` ask for is installed."""
    try:
        wanted = metadata.requires("zsq") or []
    except metadata.PackageNotFoundError:
        return [Finding("packages", "ok", "zsq runs from its source; what it needs was not compared")]
    found = []
    for extra in ("api", "worker"):
        names = [_name(each) for each in wanted if re.search(rf"""extra == ['"]{extra}['"]""", each)]
        missing = sorted(name for name in names if name != "zsq" and not _installed(name))
        if missing:
            detail = f"not installed: {', '.join(missing)}"
            advice = f"On machines that run that part: pip install 'zsq[{extra}]'."
            found.append(Finding(f"packages of {extra}", "warning", detail, advice))
        else:
            found.append(Finding(f"packages of {extra}", "ok", f"all {len(names)} installed"))
    return found


def unknown_variables(given: set[str], known: set[str]) -> list[Finding]:
    """A misspelled setting is ignored without a word by everything else."""
    found = []
    for name in sorted(given - known):
        # Without what all of them begin with, or any two would be alike.
        words = [each.removeprefix("ZSQ_") for each in known]
        near = difflib.get_close_matches(name.removeprefix("ZSQ_"), words, n=1)
        advice = (
            f"Is ZSQ_{near[0]} meant?" if near else "No setting is called so: docs/guides/configuration.md."
        )
        found.append(Finding("settings", "warning", f"{name} is no setting, and does nothing", advice))
    return found


def answers(server: str, *, chosen: bool) -> Finding:
    level = "failure" if chosen else "warning"
    try:
        response = httpx.get(f"{server.rstrip('/')}/readyz", timeout=8)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        advice = "Start one (zsq up), or name it with ZSQ_SERVER_URL."
        return Finding("server", level, f"nobody answers at {server}: {error}", advice)
    if response.status_code != 200:
        try:
            detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"status {response.status_code}"
        return Finding("server", "failure", f"{server}: {detail}", "Look at its log, and at what it names.")
    return Finding("server", "ok", f"{server} is ready")


def _ask(part: str, environment: dict[str, str]) -> tuple[list[Finding], set[str]]:
    """The findings of `python -m part.doctor`, and the settings that it knows."""
    command = [sys.executable, "-m", f"{part}.doctor"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PART_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return [Finding(part, "failure", f"no answer within {PART_SECONDS:g} s", None)], set()
    try:
        said: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        last = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
        advice = f"pip install 'zsq[{'worker' if part == 'worker' else 'api'}]', if it is to run here."
        level = "warning" if "ModuleNotFoundError" in last else "failure"
        return [Finding(part, level, last, advice)], set()
    return [Finding(**each) for each in said["findings"]], set(said["settings"])


def _environment() -> dict[str, str]:
    """This one; with the broker that `zsq up` runs, when no other is set."""
    environment = own_environment()
    try:
        from zsq.stack.broker import embedded
        from zsq.stack.settings import StackSettings

        settings = StackSettings()
    except (ImportError, ValueError):
        return environment
    url = embedded(settings.data_dir.expanduser() / "broker") if settings.broker_url is None else None
    return environment if url is None else {**environment, "ZSQ_BROKER_URL": url}


def _given() -> set[str]:
    file = Path(".env")
    text = file.read_text(errors="replace") if file.is_file() else ""
    written = re.findall(r"^\s*(?:export\s+)?(ZSQ_\w+)\s*=", text, re.MULTILINE)
    return {*written, *(name for name in os.environ if name.startswith("ZSQ_"))}


def _name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
