"""A child cannot have its forkserver fork for it. In workers of their own: pytest's process hides nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.doubles import PREFIX as DOUBLES
from tests.worker.escapes import PREFIX as ESCAPES
from worker import bpf
from worker.child import Order
from worker.outcomes import Finished, Limit, Outcome
from worker.runner import run_child

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own protection")
NOBODY = 65534


def child(scratch: Path, entry: str, payload: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    outcome = ran(scratch, entry, payload, **options)
    assert isinstance(outcome, Finished), outcome
    return outcome.value


def ran(scratch: Path, entry: str, payload: dict[str, Any] | None = None, **options: Any) -> Outcome:
    return run_child(
        Order(entry=entry, payload=payload or {}, scratch=scratch, **options),
        limit=Limit(60),
        grace_seconds=1,
        watch=lambda: None,
        on_progress=lambda news: None,
    )


def call(scratch: Path, device: str) -> dict[str, Any]:
    """How it went for a child that called the forkserver, and whether that forked for it."""
    mark = scratch / "mark"
    held = server()._forkserver_address.replace("/self/", f"/{os.getpid()}/")
    found = child(scratch, ESCAPES + "call_the_forkserver", {"held": held, "mark": str(mark)}, device=device)
    return {**found, "forked": mark.exists()}


def server() -> Any:
    from multiprocessing import forkserver

    return forkserver._forkserver  # type: ignore[attr-defined]


def kill_the_forkserver() -> None:
    process = psutil.Process(server()._forkserver_pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def in_a_worker(scratch: Path, script: str, **options: Any) -> Any:
    """What the script says, in a process that is as a worker's."""
    lines = f"""
import json, os, sys
from pathlib import Path
from tests.worker import test_forkserver as tests
from tests.worker.kernels import no_new_privileges, without
from worker import forkserver
from worker.hardening import drop_capabilities, hide_memory
scratch = Path({str(scratch)!r})
if __name__ == "__main__":
    no_new_privileges()
    drop_capabilities()
    hide_memory()
    forkserver.ensure_running()
{textwrap.indent(textwrap.dedent(script), "    ")}
"""
    ran = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@linux
@pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")
def test_a_child_on_the_cpu_has_nothing_to_call_by(tmp_path: Path) -> None:
    found = in_a_worker(tmp_path, "print(json.dumps(tests.call(scratch, 'cpu')))")
    assert found == {"path": "EPERM", "descriptor": "EPERM", "forked": False}


@linux
@pytest.mark.parametrize("kernel", ["pass", "without('landlock')"])
def test_a_child_with_local_sockets_finds_nobody_to_call(tmp_path: Path, kernel: str) -> None:
    found = in_a_worker(tmp_path, f"{kernel}\nprint(json.dumps(tests.call(scratch, 'auto')))")
    assert found == {"path": "ENOENT", "descriptor": "EACCES", "forked": False}


@linux
def test_it_would_fork_for_whoever_finds_it(tmp_path: Path) -> None:
    """So that the tests above show something."""
    script = """
    forkserver._hide_socket = lambda: None
    tests.kill_the_forkserver()
    print(json.dumps(tests.call(scratch, "auto")))
    """
    found = in_a_worker(tmp_path, script)
    assert (found["path"], found["forked"]) == ("done", True)


@linux
def test_one_that_takes_the_place_of_a_dead_one_is_hidden_too(tmp_path: Path) -> None:
    script = """
    said, opened = [], []
    for _ in range(2):
        tests.kill_the_forkserver()
        said.append(tests.call(scratch, "auto"))
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
    print(json.dumps([said, opened[1] - opened[0]]))
    """
    hidden = {"path": "ENOENT", "descriptor": "EACCES", "forked": False}
    assert in_a_worker(tmp_path, script) == [[hidden, hidden], 0], "and nothing stays open"


def test_one_that_multiprocessing_launches_by_itself_has_no_secrets(tmp_path: Path) -> None:
    """In `process.start()`, if that finds that the one before has died."""
    script = f"""
    forkserver._ensure_running = tests.kill_the_forkserver
    print(json.dumps(tests.child(scratch, {DOUBLES + "show_environment"!r})))
    """
    found = in_a_worker(
        tmp_path, script, env={**os.environ, "ZSQ_DATABASE_URL": "postgresql://u:hunter2@db/zsq"}
    )
    assert "PATH" in found["environment"] and "hunter2" not in json.dumps(found)


def test_a_start_leaves_the_workers_environment_alone(tmp_path: Path) -> None:
    """Other threads read it meanwhile."""
    script = f"""
    changes = []
    sys.addaudithook(lambda event, said: event in ("os.putenv", "os.unsetenv") and changes.append(repr(said)))
    for _ in range(2):
        tests.kill_the_forkserver()
        tests.child(scratch, {DOUBLES + "show_environment"!r})
    print(json.dumps([changes, os.environ["PGPASSWORD"]]))
    """
    assert in_a_worker(tmp_path, script, env={**os.environ, "PGPASSWORD": "hunter2"}) == [[], "hunter2"]


def test_children_of_one_that_may_hold_secrets_do_nothing(tmp_path: Path) -> None:
    script = f"""
    tests.kill_the_forkserver()
    forkserver.PRELOAD.remove("worker.stripped")
    print(json.dumps(tests.ran(scratch, {DOUBLES + "show_environment"!r}).failure))
    """
    failure = in_a_worker(tmp_path, script)
    assert failure["code"] == "worker_broken"


@linux
def test_neither_worker_nor_forkserver_is_offered_to_the_oom_killer(tmp_path: Path) -> None:
    """By children of a user who is not root, under whom jobs run as well."""
    options = _somebody_else() if os.getuid() == 0 else {}
    script = f"""
    with __import__("tempfile").TemporaryDirectory() as folder:
        here = Path(folder)
        found = tests.child(here, {ESCAPES + "offer_others_to_the_oom_killer"!r}, {{"pid": os.getpid()}})
        echo = tests.child(here, {DOUBLES + "succeed"!r}, {{"x": 1}})["echo"]
    print(json.dumps([found, echo, os.getuid()]))
    """
    found, echo, user = in_a_worker(tmp_path, script, **options)
    assert user != 0 and echo == {"x": 1}
    assert found == {"worker": "EACCES", "forkserver": "EACCES", "itself": "done"}


def _somebody_else() -> dict[str, Any]:
    options: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", "import torch"], check=True, capture_output=True, **options)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("Python is root's alone")
    return options


def test_threads_that_are_to_be_bound_to_cores_run_unbound(tmp_path: Path) -> None:
    bound = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "OMP_NUM_THREADS": "4"}
    script = f"""
    said = tests.child(scratch, {DOUBLES + "succeed"!r}, threads=4)
    print(json.dumps([said["threads"], os.environ["OMP_PROC_BIND"]]))
    """
    assert in_a_worker(tmp_path, script, env={**os.environ, **bound}) == [4, "true"]


def test_its_temporary_folder_goes_with_the_worker(tmp_path: Path) -> None:
    script = """
    from multiprocessing import util
    print(json.dumps(util.get_temp_dir()))
    """
    folder = in_a_worker(tmp_path, script)
    assert Path(folder).name.startswith("pymp-") and not Path(folder).exists()
