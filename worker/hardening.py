"""What a child may do and see: it parses strangers' bytes, and may one day be made to run their code.

The kernel's part of this is Linux; elsewhere only the limits hold.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from multiprocessing import forkserver, resource_tracker
from types import FrameType

from worker import landlock, libc, seccomp

MAX_OPEN_FILES = 1024

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

# A plain flag: a signal's handler must not wait for a lock that what it interrupts may hold.
_file_limit_met = False


def hide_memory() -> None:
    """For the worker and its forkserver: a child, though of the same user, can read neither their memory nor
    their environment, nor, unless that user is root, offer them to the kernel's out-of-memory killer.

    Raises OSError.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def show_memory() -> None:
    """For the child, a copy of a forkserver that hides: its own files in /proc are its user's again.

    Raises OSError.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 1)


def confine(file_bytes: int | None, local_sockets: bool = False) -> None:
    """For the child: no core dumps, few open files, no file above `file_bytes`, none that others may read,
    no privileges and no way to new ones; where the kernel can, no processes of its own, no network, no
    sockets but `local_sockets`, and no hold on other processes. It dies with the forkserver, and that with
    the worker.

    Threads that run already keep their privileges, so there must be none. Raises OSError.
    """
    os.umask(0o077)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, _meet_file_limit)
        _limit(resource.RLIMIT_FSIZE, file_bytes)
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        drop_capabilities()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _let_go_of_the_forkserver()
    _let_go_of_the_resource_tracker()
    landlock.install()
    seccomp.install(local_sockets)


def met_file_limit() -> bool:
    """Whether a file would have grown too large. Native writers do not tell why they failed."""
    return _file_limit_met


def _meet_file_limit(number: int, frame: FrameType | None) -> None:
    global _file_limit_met
    _file_limit_met = True


def survived_file_limit() -> None:
    """A file that could not be written did not end the run: what ends it later has other reasons."""
    global _file_limit_met
    _file_limit_met = False


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _prctl(option: int, value: int) -> None:
    libc.call("prctl", option, value, 0, 0, 0)


def drop_capabilities() -> None:
    """Even as root: CAP_SYS_PTRACE, for one, would open the worker's memory again."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, for 64 capabilities
    libc.call("capset", header, none)


def _let_go_of_the_forkserver() -> None:
    """Closes this child's end of the pipe that keeps the forkserver alive.

    So the worker alone holds it. When the worker is killed the forkserver ends, and the kernel ends the
    child, even one that sits in native code and never gets to see that its own pipe has closed.
    """
    alive = getattr(forkserver, "_forkserver", None)
    if alive is not None and alive._forkserver_alive_fd is not None:
        os.close(alive._forkserver_alive_fd)
        alive._forkserver_alive_fd = None


def _let_go_of_the_resource_tracker() -> None:
    """That process of the worker's is not confined: it removes what it is told to, and prints what it does
    not understand where the worker logs. What this child says to it goes nowhere."""
    pipe = getattr(resource_tracker._resource_tracker, "_fd", None)
    if pipe is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, pipe, inheritable=False)
        os.close(nowhere)
