from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys

import pytest

from worker import bpf


def has_landlock() -> bool:
    version = ctypes.c_uint32(1)
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), version) >= 2


def looked_at(beforehand: str) -> dict[str, str]:
    """What a child opens of its user's processes: of none with privileges, which would shut it out alone."""
    script = f"""
import json, subprocess, sys
from multiprocessing import resource_tracker
from tests.worker.kernels import no_new_privileges, without
from tests.worker.test_seccomp import run
from worker import forkserver
from worker.hardening import drop_capabilities
if __name__ == "__main__":
    no_new_privileges()
    {beforehand}
    drop_capabilities()
    forkserver.ensure_running()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        pids = {{"other": other.pid, "tracker": resource_tracker._resource_tracker._pid}}
        print(json.dumps(run("spy_by_name", {{"pids": pids}}).value))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    assert len(found) == 9
    return found


@pytest.mark.skipif(not has_landlock(), reason="the kernel has no Landlock")
def test_a_child_reaches_the_memory_of_no_other_process() -> None:
    assert set(looked_at("pass").values()) == {"EACCES"}


@pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_without_landlock_a_job_runs_all_the_same(code: int) -> None:
    """And a child may read whatever of its user does not hide, which is why."""
    found = looked_at(f"without('landlock', code={code})")
    assert found["environ of forkserver"] == found["environ of tracker"] == "done", found
