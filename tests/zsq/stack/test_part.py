from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import until
from zsq.stack.part import Part, ending

# Starts a child of its own, says both process ids, and sleeps; deaf to SIGTERM if told so.
FAMILY = """
import signal, subprocess, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, "ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Callable[..., Part]]:
    started: list[Part] = []

    def start(code: str, *arguments: str) -> Part:
        command = [sys.executable, "-c", code, *arguments]
        started.append(Part("thing", command, dict(os.environ), tmp_path / "logs"))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.finish()


def grandchild(part: Part) -> psutil.Process:
    until(lambda: "ready" in part.last_words())
    return psutil.Process(int(part.last_words().split()[0]))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_output_goes_to_the_log_and_the_exit_code_is_told(part: Callable[..., Part]) -> None:
    one = part("print('hello'); raise SystemExit(3)")
    until(lambda: one.ended() is not None)
    assert one.ended() == 3
    assert one.last_words() == "hello"


@pytest.mark.parametrize("hearing", ["hearing", "deaf"])
def test_finishing_takes_the_whole_family(part: Callable[..., Part], hearing: str) -> None:
    one = part(FAMILY, hearing)
    child = grandchild(one)
    one.terminate()
    one.finish()
    assert gone(child)


def test_a_killed_part_leaves_no_family_behind(part: Callable[..., Part]) -> None:
    one = part(FAMILY)
    child = grandchild(one)
    assert one.pid is not None
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: one.ended() is not None)
    assert one.ended() == -signal.SIGKILL
    until(lambda: gone(child))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel tells a child of its parent's death")
def test_a_part_dies_with_its_supervisor_however_that_dies(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from zsq.stack.part import Part
part = Part("thing", [sys.executable, "-c", "import time; print('ready'); time.sleep(600)"],
            {{**os.environ, "PYTHONUNBUFFERED": "1"}}, Path({str(tmp_path)!r}))
part.start()
while "ready" not in part.last_words(): time.sleep(0.02)
print(part.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        process = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    until(lambda: gone(process))


def test_endings_are_named() -> None:
    assert ending(-9) == "killed by SIGKILL"
    assert ending(1) == "exit code 1"
