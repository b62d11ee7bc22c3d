from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.escapes import PREFIX
from tests.worker.judging import judge
from worker import bpf, seccomp
from worker.bpf import AARCH64, ALLOW, ERRNO, X86_64, Machine
from worker.child import Order
from worker.outcomes import Failed, Finished, Limit, Outcome
from worker.runner import run_child

REFUSED = ERRNO | errno.EPERM
HERE = bpf.machine()
IPC_PRIVATE, IPC_RMID = 0, 0
CLONE_VM, CLONE_THREAD, SIGCHLD = 0x100, 0x10000, 17
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}

confined = pytest.mark.skipif(HERE is None, reason="no filter is known for this machine")
machines = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)


def run(entry: str, payload: dict[str, Any] | None = None) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        return run_child(
            Order(entry=PREFIX + entry, payload=payload or {}, scratch=Path(scratch)),
            limit=Limit(60),
            grace_seconds=1,
            watch=lambda: None,
            on_progress=lambda news: None,
        )


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def segment() -> Iterator[int]:
    """The id of memory that this process shares with whoever attaches it."""
    libc = ctypes.CDLL(None)
    segment = libc.shmget(IPC_PRIVATE, 4096, 0o600)
    assert segment >= 0
    yield segment
    libc.shmctl(segment, IPC_RMID, None)


@confined
def test_a_child_gets_no_process_no_network_and_no_hold_on_others(port: int, segment: int) -> None:
    outcome = run("attempt", {"pid": os.getpid(), "port": port, "segment": segment})
    assert isinstance(outcome, Finished), outcome
    clone3 = outcome.value.pop("clone3")
    assert clone3 == "ENOSYS", "or libc would not try clone instead"
    assert len(outcome.value) == 47
    assert set(outcome.value.values()) == {"EPERM"}, outcome.value


def test_what_a_child_needs_works() -> None:
    outcome = run("live")
    assert isinstance(outcome, Finished), outcome
    assert set(outcome.value.values()) == {"done"}, outcome.value


def test_a_child_that_aborts_has_aborted() -> None:
    outcome = run("abort")
    assert isinstance(outcome, Failed) and "SIGABRT" in outcome.failure["detail"], outcome


@confined
def test_nobody_outlives_a_child() -> None:
    mark = f"left-by-{os.getpid()}"
    outcome = run("leave_somebody_behind", {"mark": mark})
    left = [process for process in psutil.process_iter() if mark in " ".join(_command(process))]
    for process in left:
        process.kill()
    assert isinstance(outcome, Finished), outcome
    assert not left


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@confined
def test_all_threads_of_a_child_are_held() -> None:
    outcome = run("show_threads")
    assert isinstance(outcome, Finished), outcome
    assert outcome.value["threads"] >= 2, "one of them hears the parent"
    assert (outcome.value["seccomp"], outcome.value["privileges"]) == ([2], [0])


@pytest.mark.skipif(HERE is not X86_64, reason="x32 is a way into kernels of x86_64")
def test_a_way_around_the_numbers_kills() -> None:
    outcome = run("call", {"number": 0x40000000 | 39})
    assert isinstance(outcome, Failed) and "SIGSYS" in outcome.failure["detail"], outcome


@machines
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("clone", (CLONE_VM | CLONE_THREAD,), True),
        ("clone", (CLONE_VM | SIGCHLD,), False),
        ("clone", (SIGCHLD | CLONE_THREAD << 32,), False),
        ("socket", (socket.AF_UNIX, 1), False),
        ("socket", (2, 1), False),
        ("socketpair", (1, 1), True),
        ("socketpair", (1, 0x80801), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (1, 0x80002), False),
        ("socketpair", (1, 5), False),
        ("socketpair", (30, 1), False),
        ("kill", (4711, 9), True),
        ("kill", (4712, 9), False),
        ("kill", (2**64 - 1, 9), False),
        ("tgkill", (4711, 4715, 6), True),
        ("tgkill", (4712, 4712, 6), False),
        ("rt_sigqueueinfo", (4712, 9), False),
        ("rt_tgsigqueueinfo", (4712, 4712, 9), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (4712, 7), False),
        ("sched_setaffinity", (4711, 8), True),
        ("sched_setattr", (0, 0), True),
        *((f"sched_set{what}", (4712, 0), False) for what in ("affinity", "attr", "param", "scheduler")),
        ("setpriority", (0, 0, 19), True),
        ("setpriority", (0, 4711, 19), True),
        ("setpriority", (0, 4712, 19), False),
        ("setpriority", (1, 0, 19), False),
        ("setpriority", (2, 0, 19), False),
        ("ioprio_set", (1, 0, 0), True),
        ("ioprio_set", (1, 4711, 0), True),
        ("ioprio_set", (1, 4712, 0), False),
        ("ioprio_set", (2, 0, 0), False),
        ("prctl", (1, 0), False),
        ("prctl", (2**32 | 1, 0), False),
        ("prctl", (2, 0), True),
        ("prctl", (15, 0), True),
        ("fcntl", (3, 4), True),
        ("fcntl", (3, 8, 4712), False),
        ("fcntl", (3, 15), False),
        ("ioctl", (3, 0x5401), True),
        ("ioctl", (3, 0xC020462A), True),
        ("ioctl", (3, 0x5412), False),
        ("ioctl", (3, 2**32 | 0x5412), False),
        *((name, (), False) for name in ("execve", "execveat", "ptrace", "io_uring_setup", "tkill")),
        *((name, (), False) for name in ("process_vm_readv", "process_vm_writev", "pidfd_getfd")),
        *((name, (), False) for name in ("pidfd_send_signal", "bpf", "perf_event_open", "userfaultfd")),
        *((f"shm{what}", (), False) for what in ("get", "at", "ctl")),
        *((f"sem{what}", (), False) for what in ("get", "op", "timedop", "ctl")),
        *((f"msg{what}", (), False) for what in ("get", "snd", "rcv", "ctl")),
        *((name, (), False) for name in ("mq_open", "mq_unlink")),
        *((name, (), False) for name in ("add_key", "request_key", "keyctl", "unshare", "setns", "mount")),
    ],
)
def test_calls_on_either_machine(
    machine: Machine, name: str, arguments: tuple[int, ...], allowed: bool
) -> None:
    number = seccomp.NUMBERS[name][0 if machine is X86_64 else 1]
    verdict = judge(program(machine), machine.audit_arch, number, *arguments)
    assert verdict == (ALLOW if allowed else REFUSED)


@machines
@pytest.mark.parametrize(
    ("name", "family", "allowed"),
    [("socket", 1, True), ("socket", 2, False), ("socketpair", 1, True), ("socketpair", 30, False)],
)
def test_local_sockets_are_for_those_who_need_them(
    machine: Machine, name: str, family: int, allowed: bool
) -> None:
    number = seccomp.NUMBERS[name][0 if machine is X86_64 else 1]
    verdict = judge(program(machine, local_sockets=True), machine.audit_arch, number, family, 2)
    assert verdict == (ALLOW if allowed else REFUSED)


@machines
def test_no_call_but_these_is_refused(machine: Machine) -> None:
    known = {numbers[0 if machine is X86_64 else 1] for numbers in seccomp.NUMBERS.values()}
    if machine is X86_64:
        known |= {57, 58}
    others = set(range(600)) - known
    assert {judge(program(machine), machine.audit_arch, number) for number in others} == {ALLOW}
    assert len(known) == len(seccomp.NUMBERS) + 2 * (machine is X86_64)


@machines
def test_the_numbers_are_the_kernels(machine: Machine) -> None:
    header = HEADERS[machine.name]
    if not header.exists():
        pytest.skip("without the kernel's headers for programs")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE))
    ours = {name: numbers[0 if machine is X86_64 else 1] for name, numbers in seccomp.NUMBERS.items()}
    ours["seccomp"] = machine.seccomp
    if machine is X86_64:
        ours |= seccomp.ONLY_X86_64
    assert {name: int(found[name]) for name in ours} == ours


@confined
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_a_kernel_without_seccomp_is_told_apart(code: int) -> None:
    """A whole job there: test_landlock."""
    script = f"""
from tests.worker.kernels import without
from worker import seccomp
without("seccomp", code={code})
assert seccomp.install(False) is False
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def program(machine: Machine, local_sockets: bool = False) -> list[bpf.Instruction]:
    return bpf.assemble(machine, seccomp.rules(machine, 4711, local_sockets))
