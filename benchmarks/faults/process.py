"""One process of the stack: started, killed, frozen, started again; what it has started is known."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from zsq.stack import attached


def wait_for(condition: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Raises TimeoutError, naming `what`, when the condition does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


class Process:
    """Leads a session of its own, by which its children are known even when it is dead.

    `launcher` is one thread that outlives the process: the kernel kills the process when the thread
    that started it ends, so that a killed harness leaves nothing running.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        launcher: ThreadPoolExecutor,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command, self._env, self._folder = list(command), dict(env), folder
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._dead: dict[int, float] = {}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        attach = [sys.executable, "-I", "-S", attached.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = self._launcher.submit(
                subprocess.Popen,
                [*attach, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._folder,
                start_new_session=True,
            ).result()

    def kill(self) -> None:
        """SIGKILL to the process alone; returns when it is dead."""
        assert self._process is not None
        self._process.kill()
        self._reap(None)

    def terminate(self) -> None:
        """Asks it to end; returns at once."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, seconds: float = 15) -> None:
        """Asks it to end; kills it, and whatever is left of it, when it does not."""
        self.terminate()
        if self._process is not None:
            try:
                self._reap(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        for process in self.left_over():
            process.kill()

    def _reap(self, seconds: float | None) -> None:
        assert self._process is not None
        self._process.wait(seconds)
        self._dead.setdefault(self.pid, time.time())

    def members(self) -> list[psutil.Process]:
        """All living processes of its present session, itself first."""
        return in_sessions({self.pid: math.inf})

    def children(self) -> list[psutil.Process]:
        """The processes that run jobs: children of its forkserver, and nothing else's."""
        return [process for process in self.members() if _grandchild(process, self.pid)]

    def left_over(self) -> list[psutil.Process]:
        """What its dead incarnations left alive."""
        return in_sessions(self._dead)

    def freeze(self) -> list[psutil.Process]:
        """SIGSTOP to the process and everything that it has started; returns them for `thaw`."""
        members = self.members()
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        return members

    def last_words(self, lines: int = 30) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"== {self.name}", *text.splitlines()[-lines:]])


def thaw(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def in_sessions(leaders: Mapping[int, float]) -> list[psutil.Process]:
    """The living processes of these sessions, by their numbers; zombies are not alive.

    Each leader with the time of its death: its number is given to strangers later, who begin after it.
    """
    found = []
    for pid in psutil.pids() if leaders else []:
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            ended = leaders.get(os.getsid(pid))
            if ended is None:
                continue
            process = psutil.Process(pid)
            if process.create_time() <= ended and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def _grandchild(process: psutil.Process, worker: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = process.parent()
        return parent is not None and parent.pid != worker and parent.ppid() == worker
    return False
