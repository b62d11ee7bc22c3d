"""Starts the parts in order, keeps them running, stops them in order."""

from __future__ import annotations

import fcntl
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from zsq.environment import own_environment
from zsq.stack.broker import Broker, free_port
from zsq.stack.errors import StackError
from zsq.stack.part import Part, ending
from zsq.stack.restarts import Restarts

if TYPE_CHECKING:
    from zsq.stack.settings import StackSettings

START_SECONDS = 90.0
# Longer than ZSQ_SHUTDOWN_GRACE_SECONDS, in which a running job saves what it has.
STOP_SECONDS = 30.0
_TICK_SECONDS = 0.1
_HOST = "127.0.0.1"
_DEVICES = Path("/dev")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Stack:
    """A running zsq. Entering starts it and returns once it is ready; leaving stops every process.

    Options left out come from `ZSQ_PORT`, `ZSQ_DATA_DIR`, `ZSQ_BROKER_URL` or their defaults; port
    0 takes a free one. `env` is added to the environment of the parts; an empty `ZSQ_BROKER_URL` in
    it means a broker of the stack's own. Raises StackError.

    One thread does all the work: the kernel kills the parts when the thread that started them ends,
    so that even a killed supervisor leaves nothing running.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = None,
        *,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _say,
    ) -> None:
        settings = _settings()
        self.data_dir = (data_dir or settings.data_dir).expanduser().absolute()
        self.port = settings.port if port is None else port
        self._extra = dict(env or {})
        self._device = self._extra.get("ZSQ_DEVICE", settings.device)
        self._broker_url = self._extra.get("ZSQ_BROKER_URL", settings.broker_url) or None
        self._log_format = "text" if settings.log_format.lower() == "auto" else settings.log_format
        self._say = say
        self._parts: dict[str, Part] = {}
        self._restarts: dict[str, Restarts] = {}
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._ended = threading.Event()
        self._failure: StackError | None = None
        self._thread = threading.Thread(target=self._run, name="zsq stack", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    def pid(self, part: str) -> int | None:
        """The process of `broker`, `api`, `control`, `cpu` or, where there is one, `gpu`."""
        return self._parts[part].pid

    def start(self) -> None:
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # Ctrl-C while it starts
            self.stop()
            raise
        if self._failure is not None:
            self.stop()
            raise self._failure

    def wait(self) -> None:
        """Returns when the stack was stopped. Raises StackError when it had to give up."""
        # Not join(): before Python 3.13 a signal that interrupts it marks the thread as ended, and the
        # join() in `stop` would not wait for the parts any more.
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def hurry(self) -> None:
        """Kills what is still running instead of waiting for it."""
        self._hurried.set()
        self._stopping.set()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- everything below runs in the one thread

    def _run(self) -> None:
        try:
            with self._locked():
                try:
                    self._start_parts()
                    self._ready.set()
                    while not self._stopping.wait(_TICK_SECONDS):
                        self._keep_running()
                finally:
                    self._stop_parts()
        except _Stopped:
            pass
        except StackError as error:
            self._failure = error
        except Exception as error:
            self._failure = StackError(f"The stack broke: {error!r}")
        finally:
            self._ready.set()
            self._ended.set()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The data folder for this stack alone; the lock goes with the process, however it ends."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            file = (self.data_dir / "stack.lock").open("w")
        except OSError as error:
            raise StackError(f"Cannot write the data folder {self.data_dir}: {error.strerror}.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StackError(
                    f"Another zsq is running on {self.data_dir}. "
                    "Stop it, or set ZSQ_DATA_DIR to another folder."
                ) from None
            yield

    def _start_parts(self) -> None:
        self.port = _claim_port(self.port)
        env = self._environment()
        python = sys.executable
        if self._broker_url is None:
            broker = Broker(self.data_dir / "broker")
            env["ZSQ_BROKER_URL"] = broker.url
            self._launch("broker", broker.command, env)
            self._await(broker.answers, lambda: "The broker does not answer.")
        self._migrate(env)
        self._launch("api", [python, "-m", "api"], env)
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        for role, options in workers(self._device).items():
            self._launch(role, [python, "-m", "worker", role, *options], env)
        with httpx.Client(trust_env=False, timeout=5) as client:
            probe = _Probe(client, f"{self.url}/readyz")
            self._await(probe.ready, lambda: f"The API does not become ready: {probe.answer}")

    def _environment(self) -> dict[str, str]:
        return {
            **own_environment(),
            "ZSQ_DATA_DIR": str(self.data_dir),
            "ZSQ_HOST": _HOST,
            "ZSQ_PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            "ZSQ_LOG_FORMAT": self._log_format,
            **self._extra,
        }

    def _launch(self, name: str, command: list[str], env: Mapping[str, str]) -> None:
        self._parts[name] = part = Part(name, command, env, self.logs)
        self._restarts[name] = Restarts()
        part.start()

    def _migrate(self, env: Mapping[str, str]) -> None:
        migration = Part("migrate", [sys.executable, "-m", "store.migrate"], env, self.logs)
        migration.start()
        try:
            self._await(lambda: migration.ended() is not None, lambda: "The migrations do not end.")
        finally:
            migration.finish()
        if migration.ended() != 0:
            raise StackError(f"The database cannot be migrated.\n{migration.last_words()}")

    def _await(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            if self._stopping.wait(_TICK_SECONDS):
                raise _Stopped
            if time.monotonic() > end:
                raise StackError(f"{complaint()} Logs: {self.logs}")
            self._keep_running()

    def _keep_running(self) -> None:
        now = time.monotonic()
        for name, part in self._parts.items():
            restarts = self._restarts[name]
            if restarts.due is not None:
                if now >= restarts.due:
                    restarts.due = None
                    part.start()
                continue
            code = part.ended()
            if code is None:
                continue
            delay = restarts.died(now)
            if delay is None:
                raise StackError(
                    f"{name} keeps dying ({ending(code)}), so zsq stops. "
                    f"The end of {part.log}:\n{part.last_words()}"
                )
            self._say(f"zsq: {name} died ({ending(code)}); restarting it in {delay:g} s. Log: {part.log}")

    def _stop_parts(self) -> None:
        # The broker last: workers hand their jobs back through it.
        served = [part for name, part in self._parts.items() if name != "broker"]
        broker = [part for name, part in self._parts.items() if name == "broker"]
        end = time.monotonic() + STOP_SECONDS
        for parts in (served, broker):
            for part in parts:
                part.terminate()
            for part in parts:
                part.finish(lambda: time.monotonic() < end and not self._hurried.is_set())


def workers(device: str) -> dict[str, list[str]]:
    """The workers to start, with their options; `device` is `ZSQ_DEVICE`.

    Where there is a GPU, only jobs that ask for the CPU run there.
    """
    if device == "cpu" or (device == "auto" and not any(_DEVICES.glob("nvidia[0-9]*"))):
        return {"control": [], "cpu": []}
    return {"control": [], "cpu": ["--queues", "zsq.cpu"], "gpu": []}


class _Stopped(Exception):
    """Told to stop while starting."""


class _Probe:
    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client, self._url = client, url
        self.answer = "no answer"

    def ready(self) -> bool:
        try:
            response = self._client.get(self._url)
        except httpx.HTTPError as error:
            self.answer = str(error)
            return False
        self.answer = response.text[:500]
        return response.status_code == 200


def _settings() -> StackSettings:
    try:
        # Late: the client alone is installed without pydantic.
        from zsq.stack.settings import StackSettings

        return StackSettings()
    except ImportError as error:
        raise StackError(f"This needs the whole of zsq: pip install 'zsq[local]' ({error}).") from error
    except ValueError as error:
        raise StackError(f"A setting cannot be used: {error}") from error


def _claim_port(port: int) -> int:
    """The port, or a free one for 0. Raises StackError when it is taken."""
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
            probe.listen()
        except OSError as error:
            raise StackError(
                f"Port {port} cannot be used ({error.strerror}). Set ZSQ_PORT to another; 0 takes a free one."
            ) from None
    return port
