"""Kernels that lack a part: for scripts, in processes of their own."""

from __future__ import annotations

import ctypes
import errno

from worker import bpf

PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET = 444


def without(*parts: str, code: int = errno.ENOSYS) -> None:
    """From here on, seccomp or Landlock answers this process and what it starts with an errno."""
    machine = bpf.machine()
    assert machine is not None
    numbers = {"seccomp": machine.seccomp, "landlock": LANDLOCK_CREATE_RULESET}
    no_new_privileges()
    bpf.load(machine, bpf.assemble(machine, {numbers[part]: bpf.refuse(code) for part in parts}))


def no_new_privileges() -> None:
    """Even root's programs then have none that their parent has not."""
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
