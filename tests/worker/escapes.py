"""What code that has taken a child over would try. Each says how it went: "done", or the name of the errno.

None does harm where nothing stops it: signals are 0, processes end at once.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import torch

from core.context import RunContext
from worker import seccomp

PREFIX = "tests.worker.escapes:"
PR_SET_PDEATHSIG = 1
KEY = 0x7A7371  # of nothing that exists
IPC_STAT = 2
PTRACE_PEEKUSER = 3  # fails with ESRCH for a process that is not traced


def attempt(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """`pid` is a process of the same user, `port` one that listens on loopback, `segment` the id of memory
    that another one shares; `names` are some of them."""
    stranger, port, segment = payload["pid"], payload["port"], payload.get("segment", 0)
    pipe, _ = os.pipe()
    actions = {
        "fork": lambda: _end_and_reap(os.fork()),
        "vfork": lambda: _end_and_reap(_libc("vfork")),
        "subprocess": lambda: subprocess.run(["true"], check=True),
        "a session of its own": lambda: subprocess.run(["true"], check=True, start_new_session=True),
        "posix_spawn": lambda: _reap(os.posix_spawn("/bin/true", ["true"], {})),
        "clone3": lambda: _libc("syscall", 435, None, 0),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "connect": lambda: socket.create_connection(("127.0.0.1", port), 5).close(),
        "IPv4": lambda: socket.socket(socket.AF_INET).close(),
        "IPv6": lambda: socket.socket(socket.AF_INET6).close(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "kill": lambda: os.kill(stranger, 0),
        "kill the forkserver": lambda: os.kill(os.getppid(), 0),
        "kill a group": lambda: os.kill(0, 0),
        "kill everybody": lambda: os.kill(-1, 0),
        "tgkill": lambda: _libc("tgkill", stranger, stranger, 0),
        "sigqueue": lambda: _libc("sigqueue", stranger, 0, None),
        "pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(stranger), 0),
        "signals by a pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, stranger),
        "prlimit": lambda: resource.prlimit(stranger, resource.RLIMIT_CPU),
        "ptrace": lambda: _libc("ptrace", PTRACE_PEEKUSER, stranger, None, None),
        "process_vm_readv": lambda: _libc("process_vm_readv", stranger, None, 0, None, 0, 0),
        "terminal": lambda: fcntl.ioctl(pipe, 0x5412, b"x"),
        "unshare": lambda: _libc("unshare", 0),
        "a local socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "a pair for datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        "nice": lambda: _renice(os.PRIO_PROCESS, stranger),
        "nice to a group": lambda: _renice(os.PRIO_PGRP, 0),
        "nice to a user": lambda: _renice(os.PRIO_USER, 0),
        "priority of input and output": lambda: _numbered("ioprio_set", 1, stranger, 0),
        "affinity": lambda: os.sched_setaffinity(stranger, os.sched_getaffinity(stranger)),
        "scheduler": lambda: os.sched_setscheduler(stranger, os.SCHED_OTHER, os.sched_param(0)),
        "parameters of the scheduler": lambda: os.sched_setparam(stranger, os.sched_param(0)),
        "attributes of the scheduler": lambda: _numbered("sched_setattr", stranger, None, 0),
        "shared memory": lambda: _numbered("shmget", KEY, 0, 0),
        "shared memory of another": lambda: _numbered("shmat", segment, None, 0),
        "the state of shared memory": lambda: _numbered(
            "shmctl", segment, IPC_STAT, ctypes.create_string_buffer(256)
        ),
        "semaphores": lambda: _numbered("semget", KEY, 0, 0),
        "semaphores of another": lambda: _numbered("semop", 0, None, 0),
        "semaphores with a timeout": lambda: _numbered("semtimedop", 0, None, 0, None),
        "the end of semaphores": lambda: _numbered("semctl", -1, 0, 0),
        "messages": lambda: _numbered("msgget", KEY, 0),
        "a message to another": lambda: _numbered("msgsnd", -1, None, 0, 0),
        "a message of another": lambda: _numbered("msgrcv", -1, None, 0, 0, 0),
        "the end of messages": lambda: _numbered("msgctl", -1, 0, None),
        "a message queue": lambda: _numbered("mq_open", b"zsq-none", 0, 0, None),
        "the end of a message queue": lambda: _numbered("mq_unlink", b"zsq-none"),
        "to outlive its worker": lambda: _libc("prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0),
    }
    return {name: _went(actions[name]) for name in payload.get("names", actions)}


def live(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """What a child may do after all."""
    actions = {**_RIGHTS, "files": lambda: _move_between_folders(context.scratch)}
    return {name: _went(action) for name, action in actions.items()}


def leave_somebody_behind(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """By each way, a process in a session of its own that stays for a while, with `mark` in its command."""
    command = f"sleep 20; : {payload['mark']}"
    ways: list[Callable[[], object]] = [
        lambda: subprocess.Popen(["sh", "-c", command], start_new_session=True),
        lambda: os.posix_spawn("/bin/sh", ["sh", "-c", command], {}, setsid=True),
        lambda: os.system(f"setsid sh -c '{command}' &"),
        lambda: os.fork() or (os.setsid(), os.execv("/bin/sh", ["sh", "-c", command])),
    ]
    for way in ways:
        _went(way)
    return {}


def call_the_forkserver(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Has it fork a process that nothing confines, which makes the file `mark`: by the path that it listens
    on, and by the worker's descriptor of it, `held`."""
    path = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    return {
        "path": _went(lambda: _have_forked(path, payload["mark"])),
        "descriptor": _went(lambda: _have_forked(payload["held"], payload["mark"])),
    }


def offer_others_to_the_oom_killer(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Its worker, and its forkserver. What they have is left as it is."""
    pids = {"worker": payload["pid"], "forkserver": os.getppid(), "itself": os.getpid()}
    return {name: _went(lambda pid=pid: _rewrite(f"/proc/{pid}/oom_score_adj")) for name, pid in pids.items()}


def cling(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Takes back that it dies with its forkserver, and hears nothing of its worker's end: no thread of its
    own gets to run."""
    _went(lambda: _libc("prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0))
    Path(payload["pid_file"]).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)
    return {}


def forge(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Prints `line`, and says it to the resource tracker, which prints what it does not understand; then
    tells which of its descriptors are the file `log`."""
    line = f"{payload['line']}\n".encode()
    tracker = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    for descriptor in (1, 2, tracker):
        os.write(descriptor, line)
    ctypes.CDLL(None).puts(line)
    ctypes.CDLL(None).fflush(None)
    opened = [Path(os.path.realpath(path)) for path in Path("/proc/self/fd").iterdir()]
    return {"log": [str(path) for path in opened if path == Path(payload["log"])], "opened": len(opened)}


def call(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    _libc("syscall", payload["number"])
    return {}


def crash(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """As deep as a network's layers lie in each other."""

    def a_layer_of_a_network_that_has_many_of_them_in_each_other(depth: int) -> None:
        if depth:
            a_layer_of_a_network_that_has_many_of_them_in_each_other(depth - 1)
        ctypes.string_at(0)

    a_layer_of_a_network_that_has_many_of_them_in_each_other(payload["depth"])
    return {}


def abort(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    os.abort()


def spy_by_name(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """What it can open of the processes `pids`, and of its forkserver."""
    pids = {**payload["pids"], "forkserver": os.getppid()}
    return {
        f"{file} of {name}": _went(lambda path=Path(f"/proc/{pid}/{file}"): path.open("rb").close())
        for name, pid in pids.items()
        for file in ("mem", "environ", "fd/0")
    }


def show_threads(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Of each thread: its mode of seccomp, and the privileges that it could use."""
    statuses = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    found = [dict(line.split(":", 1) for line in status.splitlines()) for status in statuses]
    return {
        "threads": len(found),
        "seccomp": sorted({int(status["Seccomp"]) for status in found}),
        "privileges": sorted({int(status["CapPrm"], 16) for status in found}),
    }


def _use_threads() -> None:
    said: list[int] = []
    threads = [threading.Thread(target=said.append, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 8
    torch.set_num_threads(4)
    assert float((torch.ones(512, 512) @ torch.ones(512, 512)).sum()) == 512**3


def _use_local_sockets() -> None:
    ours, theirs = socket.socketpair()
    ours.send(b"x")
    assert theirs.recv(1) == b"x"


def _move_between_folders(here: Path) -> None:
    folders = [here / "from", here / "to"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "file").write_text("x")
    (folders[0] / "file").rename(folders[1] / "file")
    os.link(folders[1] / "file", folders[0] / "link")


_RIGHTS: dict[str, Callable[[], object]] = {
    "threads": _use_threads,
    "local sockets": _use_local_sockets,
    "signal to itself": lambda: os.kill(os.getpid(), 0),
    "signal to a thread of its own": lambda: signal.pthread_kill(threading.get_ident(), 0),
    "limits of its own": lambda: resource.prlimit(0, resource.RLIMIT_CPU),
    "limits of its own, by pid": lambda: resource.prlimit(os.getpid(), resource.RLIMIT_CPU),
    "nice": lambda: _renice(os.PRIO_PROCESS, 0),
    "affinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "affinity, by pid": lambda: os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0)),
    "flags of a descriptor": lambda: fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL),
    "its own memory": lambda: Path("/proc/self/mem").open("rb").close(),
    "a name by prctl": lambda: _libc("prctl", 15, b"zsq", 0, 0, 0),
    "its own name": lambda: Path("/proc/self/comm").write_text("zsq"),
}


def _have_forked(address: str, mark: str) -> None:
    """As multiprocessing asks for a child; not its words, but a program in their place."""
    told, tell = os.pipe()
    others = os.pipe(), os.pipe()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(address)
        given = [told, others[0][1], others[1][1], others[1][0]]
        socket.send_fds(caller, [bytes([len(given)])], given)
        os.write(tell, pickle.dumps(_Program(mark)))
        os.close(tell)
        answer = os.read(others[0][0], 8)
    # It reads no more after the program, and ends: its status comes by the same pipe as its pid.
    assert len(answer) == 8 and len(os.read(others[0][0], 8)) == 8


class _Program:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (Path(self.mark),)


def _renice(which: int, who: int) -> None:
    os.setpriority(which, who, os.getpriority(which, who))


def _rewrite(path: str) -> None:
    file = Path(path)
    file.write_text(file.read_text())


def _numbered(name: str, *arguments: object) -> int:
    return _libc("syscall", seccomp.NUMBERS[name][os.uname().machine != "x86_64"], *arguments)


def _went(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else str(error)
    return "done"


def _libc(name: str, *arguments: object) -> int:
    answer = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer


def _end_and_reap(pid: int) -> None:
    if pid == 0:
        os._exit(0)
    _reap(pid)


def _reap(pid: int) -> None:
    os.waitpid(pid, 0)
