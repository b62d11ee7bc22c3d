"""One process of the stack: started in a group of its own, watched, stopped with all it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zsq.stack import attached

_LOG_BYTES = 10 * 2**20


class Part:
    """Must be started from a thread that outlives it: the kernel ties the process to that thread."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = list(command)
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        attach = [sys.executable, "-I", "-S", attached.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*attach, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                # Ctrl-C at the terminal is the supervisor's to pass on, and a group can be killed whole.
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """The exit code once it has ended, negative for a signal; None while it runs.

        What it had started itself is killed then, so that its successor finds no leftovers.
        """
        if self._process is None:
            return None
        if self._process.returncode is None:
            # Looked at without reaping: until then its number cannot be given to another group.
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self._process.pid, flags) is None:
                return None
            self._kill_group()
            self._process.wait()
        return self._process.returncode

    def terminate(self) -> None:
        """Asks it to end by itself."""
        if self._process is not None and self.ended() is None:
            self._process.terminate()

    def finish(self, patient: Callable[[], bool] = lambda: False) -> None:
        """Waits for its end as long as `patient` says so, then kills it and all it has started."""
        if self._process is None:
            return
        while self.ended() is None and patient():
            time.sleep(0.02)
        if self.ended() is None:
            self._kill_group()
            self._process.wait()
        self._wait_for_group()

    def last_words(self, lines: int = 8) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _wait_for_group(self) -> None:
        # A kill takes moments. Not longer: grandchildren are init's to reap, and some inits dawdle.
        assert self._process is not None
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            try:
                os.killpg(self._process.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.02)


def ending(code: int) -> str:
    """`-9` -> `killed by SIGKILL`; `1` -> `exit code 1`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
