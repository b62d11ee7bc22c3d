from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys

import pytest

from worker import bpf

confined = pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")


def has_landlock() -> bool:
    version = ctypes.c_uint32(1)
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), version) >= 2


def tried(beforehand: str) -> dict[str, str]:
    """What a child opens of its user's processes, and whether it may fork.

    None of those has privileges, which alone would shut it out.
    """
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
        found = run("spy_by_name", {{"pids": pids}}).value
        found |= run("attempt", {{"pid": other.pid, "port": 1, "names": ["fork"]}}).value
        print(json.dumps(found))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    assert len(found) == 10
    return found


@pytest.mark.skipif(not has_landlock(), reason="the kernel has no Landlock")
def test_a_child_reaches_the_memory_of_no_other_process() -> None:
    found = tried("pass")
    found.pop("fork")
    assert set(found.values()) == {"EACCES"}


@confined
def test_jobs_run_also_where_the_kernel_cannot_confine_them() -> None:
    """And may then do what they must not, which shows that it is the kernel that keeps them from it."""
    found = tried("without('landlock', 'seccomp')")
    assert found["environ of other"] == found["environ of tracker"] == found["fork"] == "done", found
    # But for what hides by itself.
    assert found["environ of forkserver"] == found["mem of forkserver"] == "EACCES", found


@confined
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL])
def test_a_kernel_without_landlock_is_told_apart(code: int) -> None:
    script = f"""
from tests.worker.kernels import without
from worker import landlock
without("landlock", code={code})
assert landlock.install() is False
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
