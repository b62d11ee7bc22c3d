from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from tests.worker.judging import judge
from worker import bpf
from worker.bpf import AARCH64, ALLOW, ERRNO, KILL, X86_64, Machine, never, only, only_with, refuse

REFUSED = ERRNO | errno.EPERM
RULES = {
    1: refuse(errno.ENOSYS),
    2: only(0, [7, 9]),
    3: never(1, [7, 9]),
    4: only_with(0, 0x10),
}


@pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)
@pytest.mark.parametrize(
    ("number", "arguments", "verdict"),
    [
        (0, (7,), ALLOW),
        (1, (), ERRNO | errno.ENOSYS),
        (2, (7,), ALLOW),
        (2, (9, 7), ALLOW),
        (2, (8, 7), REFUSED),
        (2, (2**64 - 7,), REFUSED),
        (2, (2**32 + 7,), ALLOW),  # an int for the kernel too
        (3, (7, 8), ALLOW),
        (3, (8, 7), REFUSED),
        (3, (8, 2**32 + 9), REFUSED),
        (4, (0xF0,), ALLOW),
        (4, (0xEF,), REFUSED),
        (5, (), ALLOW),
        (0x40000000, (), KILL),
        (0x40000001, (), KILL),
    ],
)
def test_a_call_is_judged_by_its_rule(
    machine: Machine, number: int, arguments: tuple[int, ...], verdict: int
) -> None:
    program = bpf.assemble(machine, RULES)
    assert judge(program, machine.audit_arch, number, *arguments) == verdict


@pytest.mark.parametrize("foreign", [0x40000003, 0x40000028, 0xC00000F3], ids=["i386", "arm", "riscv64"])
def test_calls_of_another_machine_kill(foreign: int) -> None:
    for machine in (X86_64, AARCH64):
        assert judge(bpf.assemble(machine, RULES), foreign, 0) == KILL


@pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")
def test_the_kernel_judges_all_threads() -> None:
    """In a process of its own: what is loaded stays."""
    script = """
import ctypes, errno, json, os, threading
from worker import bpf
from worker.hardening import confine
go, said = threading.Event(), []
def ask():
    go.wait()
    call()
def call():
    libc = ctypes.CDLL(None, use_errno=True)
    said.append([libc.syscall(9999, argument) and ctypes.get_errno() for argument in (1, 2)])
thread = threading.Thread(target=ask)
thread.start()
confine(None)
machine = bpf.machine()
bpf.load(machine, bpf.assemble(machine, {9999: bpf.only(0, [1])}))
go.set()
thread.join()
call()
print(json.dumps(said))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [[errno.ENOSYS, errno.EPERM]] * 2


@pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")
def test_a_program_that_is_none_is_not_loaded() -> None:
    with pytest.raises(OSError, match="seccomp"):
        bpf.load(bpf.machine() or X86_64, [])
