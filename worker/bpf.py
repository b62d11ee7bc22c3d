"""Programs of classic BPF that judge system calls, and how Linux is given one.

A filter sees a call's number and its arguments, and nothing of the memory that they point to:
https://docs.kernel.org/userspace-api/seccomp_filter.html. Constants are those of linux/filter.h,
linux/seccomp.h and linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker import libc

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
ERRNO = 0x00050000  # SECCOMP_RET_ERRNO, with the errno added
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets into struct seccomp_data

_X32_SYSCALL_BIT = 0x40000000
_SECCOMP_SET_MODE_FILTER = 1
# All threads. And none of the brakes on speculation that kernels before 5.16 add: they slow training down,
# and what this guards are other processes, not secrets within this one.
_FLAGS = 1 << 0 | 1 << 2  # SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_SPEC_ALLOW


@dataclass(frozen=True, slots=True)
class Machine:
    """Its name for the kernel's audit, and the number of seccomp(2)."""

    name: str
    audit_arch: int
    seccomp: int


X86_64 = Machine("x86_64", 0xC000003E, 317)
AARCH64 = Machine("aarch64", 0xC00000B7, 277)


class Instruction(ctypes.Structure):
    """struct sock_filter. The jumps say how many instructions are left out."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


Rule = list[Instruction]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction)))


def machine() -> Machine | None:
    """The one that this process runs on; None where no filter is known, also for processes of 32 bits."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine)


def refuse(code: int) -> Rule:
    """The call fails with this errno."""
    return [_return(ERRNO | code)]


def only(argument: int, values: Sequence[int]) -> Rule:
    """Allowed if the argument, an int, is one of these."""
    return [*_switch(argument, values, ALLOW), *refuse(errno.EPERM)]


def never(argument: int, values: Sequence[int]) -> Rule:
    """Allowed unless the argument, an int, is one of these."""
    return [*_switch(argument, values, ERRNO | errno.EPERM), _return(ALLOW)]


def provided(argument: int, value: int, rule: Rule) -> Rule:
    """Judged by `rule` if the argument, an int, is this; else refused."""
    return [_load(argument), Instruction(JUMP_EQUAL, 1, 0, value), *refuse(errno.EPERM), *rule]


def only_with(argument: int, flag: int) -> Rule:
    """Allowed if the flag is set among the argument's lower 32."""
    return [_load(argument), Instruction(JUMP_SET, 0, 1, flag), _return(ALLOW), *refuse(errno.EPERM)]


def assemble(machine: Machine, rules: Mapping[int, Rule]) -> list[Instruction]:
    """A program that judges calls by the rule of their number, and allows those that have none."""
    program = [
        # By other ways into the kernel, of 32 bits and x32, the numbers mean other calls.
        Instruction(LOAD, 0, 0, ARCHITECTURE),
        Instruction(JUMP_EQUAL, 1, 0, machine.audit_arch),
        _return(KILL),
        Instruction(LOAD, 0, 0, NUMBER),
        Instruction(JUMP_GREATER_EQUAL, 0, 1, _X32_SYSCALL_BIT),
        _return(KILL),
    ]
    for number, rule in rules.items():
        program += [Instruction(JUMP_EQUAL, 0, len(rule), number), *rule]
    return [*program, _return(ALLOW)]


def load(machine: Machine, program: Sequence[Instruction]) -> None:
    """Binds all threads of this process and what they start, for good. Needs no_new_privs. Raises OSError."""
    instructions = (Instruction * len(program))(*program)
    loaded = _Program(len(program), instructions)
    mode = _SECCOMP_SET_MODE_FILTER
    if libc.syscall("seccomp", machine.seccomp, mode, _FLAGS, ctypes.byref(loaded)) > 0:
        raise OSError(errno.EBUSY, "seccomp: another filter binds one of the threads")


def _switch(argument: int, values: Sequence[int], verdict: int) -> Rule:
    tests = [[Instruction(JUMP_EQUAL, 0, 1, value), _return(verdict)] for value in values]
    return [_load(argument), *(instruction for test in tests for instruction in test)]


def _load(argument: int) -> Instruction:
    # The lower half: both machines are little-endian.
    return Instruction(LOAD, 0, 0, ARGUMENTS + 8 * argument)


def _return(verdict: int) -> Instruction:
    return Instruction(RETURN, 0, 0, verdict)
