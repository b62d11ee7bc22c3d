"""The system calls that Linux refuses a child: it gets no process of its own, no network and no hold on
other processes, nor shares memory with them. What it starts would outlive its kill; as it is, nothing does.

All other calls are allowed. A list of allowed ones would break with each release of libc, torch and the
drivers of GPUs.
"""

from __future__ import annotations

import errno
import os
import socket

from worker import bpf
from worker.bpf import Machine, Rule, never, only, only_with, provided, refuse

# On x86_64 and on aarch64, where `clone` does all that the older calls do.
NUMBERS: dict[str, tuple[int, int]] = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fcntl": (72, 25),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "mount": (165, 40),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
ONLY_X86_64 = {"fork": 57, "vfork": 58}

_CLONE_THREAD = 0x00010000
_PROGRAMS = ("execve", "execveat", "request_key")  # the last has the kernel start one
_MEMORY_OF_OTHERS = ("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd")
# A thread's id and a descriptor do not say whose they are.
_SIGNALS_TO_ANYBODY = ("tkill", "pidfd_send_signal")
# By io_uring, calls are made that no filter sees. Nothing here needs the others, whose bugs were many.
_KERNEL = ("io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "add_key", "keyctl")
# What System V's calls and message queues make stays when a process is gone, and any process of its user
# reads and changes it, whose id is easily guessed. shm_open's is a file in /dev/shm.
_SHARED = (
    *("shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"),
)
_NAMESPACES = ("unshare", "setns", "mount")
_SCHEDULING = ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
# It dies with the forkserver, and cannot take that back.
_PR_SET_PDEATHSIG = 1
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1
# SOCK_STREAM, with SOCK_NONBLOCK and SOCK_CLOEXEC or without. Of a pair for datagrams each end can still send
# to any address.
_STREAMS = (0x1, 0x801, 0x80001, 0x80801)
# Signals go also by way of descriptors: F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP.
_FCNTL = (8, 15)
# And TIOCSTI, TIOCLINUX: they type into the terminal that a worker may have been started from.
_IOCTL = (0x8901, 0x8902, 0x5412, 0x541C)

_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EPERM})


def install(local_sockets: bool) -> bool:
    """Binds all threads of this process, for good. False where there is no such filter: another system or
    machine, a kernel without seccomp or from before 4.17, a sandbox around this process that refuses it.

    Needs no_new_privs. Raises OSError.
    """
    machine = bpf.machine()
    if machine is None:
        return False
    try:
        bpf.load(machine, bpf.assemble(machine, rules(machine, os.getpid(), local_sockets)))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def rules(machine: Machine, pid: int, local_sockets: bool) -> dict[int, Rule]:
    """What the process `pid` is held to, by the numbers of the calls.

    `local_sockets` it may open and connect if its device is a GPU, whose drivers may need them (CUDA's MPS is
    reached so). Else all that it gets are pairs, whose ends know each other alone.
    """
    itself = only(0, [0, pid])
    if local_sockets:
        sockets = dict.fromkeys(("socket", "socketpair"), only(0, [socket.AF_UNIX]))
    else:
        pairs = provided(0, socket.AF_UNIX, only(1, _STREAMS))
        sockets = {"socket": refuse(errno.EPERM), "socketpair": pairs}
    denied = (*_PROGRAMS, *_MEMORY_OF_OTHERS, *_SIGNALS_TO_ANYBODY, *_KERNEL, *_SHARED, *_NAMESPACES)
    named = {
        **dict.fromkeys(denied, refuse(errno.EPERM)),
        "clone": only_with(0, _CLONE_THREAD),
        # Its flags are in memory. libc, told that there is no such call, takes `clone`.
        "clone3": refuse(errno.ENOSYS),
        **sockets,
        # To itself: `abort` is.
        **dict.fromkeys(("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), only(0, [pid])),
        **dict.fromkeys(("prlimit64", *_SCHEDULING), itself),
        "setpriority": provided(0, _PRIO_PROCESS, only(1, [0, pid])),
        "ioprio_set": provided(0, _IOPRIO_WHO_PROCESS, only(1, [0, pid])),
        "prctl": never(0, [_PR_SET_PDEATHSIG]),
        "fcntl": never(1, _FCNTL),
        "ioctl": never(1, _IOCTL),
    }
    if machine is bpf.X86_64:
        older = {number: refuse(errno.EPERM) for number in ONLY_X86_64.values()}
        return older | {NUMBERS[name][0]: rule for name, rule in named.items()}
    return {NUMBERS[name][1]: rule for name, rule in named.items()}
