"""How fast are uploads, and does the API's memory stay flat?

    python benchmarks/upload.py [--mebibytes 2048] [--repeats 3] [--output FILE]

Starts uvicorn four times as often as `--repeats`: with the API (raw body, then form) and with two bare
ASGI applications on the same server, one that reads the body and one that also hashes it. A raw
client sends bytes made on the fly, so no disk is read. The resident memory (RSS) of the server's
process is sampled while it receives; its processor time is told too, since that is the same on a
machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import markdown
import psutil
import uvicorn

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
CHUNK = os.urandom(MIB)
WARM_UP_MIB = 16
FLAT_MIB = 50
LEAST_SHARE = 0.7
BOUNDARY = "zsq-benchmark"


# --- the servers, in a process of their own ------------------------------------------------------


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Reads, counts, and for `/hash` hashes: the least that a streaming endpoint can do."""
    if scope["type"] != "http":
        return
    digest, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        data = message.get("body", b"")
        size += len(data)
        if scope["path"] == "/hash":
            digest.update(data)
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": f"{size} {digest.hexdigest()}".encode()})


def serve(kind: str, port: int, data_dir: str) -> None:
    app: Any = bare
    if kind == "api":
        from api.app import create_app
        from api.settings import ApiSettings
        from store.migrate import upgrade

        # Nobody listens at the broker: enqueueing fails at once, and an upload does not mind.
        settings = ApiSettings(data_dir=Path(data_dir), broker_url="redis://127.0.0.1:1/0")
        upgrade(settings.database_url)
        app = create_app(settings)
    uvicorn.run(
        app, host="127.0.0.1", port=port, log_level="error", lifespan="on" if kind == "api" else "off"
    )


@contextmanager
def running(kind: str, data_dir: Path) -> Iterator[tuple[int, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--data-dir", str(data_dir)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


# --- the client ----------------------------------------------------------------------------------


@dataclass
class Memory:
    """RSS in bytes, sampled every 20 ms."""

    process: psutil.Process
    samples: list[int] = field(default_factory=list)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.02):
                self.samples.append(self.process.memory_info().rss)

        self.samples.append(self.process.memory_info().rss)
        thread = threading.Thread(target=sample)
        thread.start()
        yield
        stop.set()
        thread.join()

    @property
    def growth(self) -> int:
        return max(self.samples) - self.samples[0]


def send(port: int, path: str, mebibytes: int, form: bool) -> float:
    """Sends so many MiB; returns the seconds from the first byte to the whole answer."""
    before, after = b"", b""
    kind = "application/octet-stream"
    if form:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="architecture"\r\n\r\ncifar/resnet20\r\n'
        )
        head += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        before, after = head.encode(), f"\r\n--{BOUNDARY}--\r\n".encode()
    # Some bytes of its own, so that no two uploads are the same file.
    before_file = os.urandom(16)
    length = len(before) + 16 + mebibytes * MIB + len(after)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.connect()
    begin = time.perf_counter()
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(length))
    connection.endheaders(before + before_file)
    for _ in range(mebibytes):
        connection.send(CHUNK)
    connection.send(after)
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - begin
    connection.close()
    if response.status != 201:
        raise SystemExit(f"{path}: {response.status} {body[:500]!r}")
    return seconds


CASES = {
    "bare endpoint, reads": ("bare", "/read", False),
    "bare endpoint, reads and hashes": ("bare", "/hash", False),
    "API, octet-stream": ("api", "/v1/checkpoints?architecture=cifar/resnet20", False),
    "API, multipart": ("api", "/v1/checkpoints", True),
}


@dataclass
class Result:
    speeds: list[float] = field(default_factory=list)  # MB/s, 10^6 bytes
    growths: list[float] = field(default_factory=list)  # MiB
    costs: list[float] = field(default_factory=list)  # the server's processor seconds a GiB


def measure(mebibytes: int, repeats: int) -> dict[str, Result]:
    results = {name: Result() for name in CASES}
    for _ in range(repeats):  # in turns, so that a slow minute of the machine hits all alike
        for name, (kind, path, form) in CASES.items():
            folder = Path(tempfile.mkdtemp(prefix="zsq-upload-"))
            try:
                with running(kind, folder) as (port, process):
                    memory = Memory(process)
                    with memory.sampled():
                        send(port, path, WARM_UP_MIB, form)
                        before = sum(process.cpu_times()[:2])
                        seconds = send(port, path, mebibytes, form)
                        cost = sum(process.cpu_times()[:2]) - before
            finally:
                shutil.rmtree(folder)
            results[name].speeds.append(mebibytes * MIB / seconds / 1e6)
            results[name].growths.append(memory.growth / MIB)
            results[name].costs.append(cost / mebibytes * 1024)
            print(f"{name}: {results[name].speeds[-1]:.0f} MB/s, RSS +{results[name].growths[-1]:.1f} MiB")
    return results


def table(results: dict[str, Result]) -> list[str]:
    reading, hashing = (
        statistics.median(results[name].speeds)
        for name in ("bare endpoint, reads", "bare endpoint, reads and hashes")
    )
    speeds = ["MB/s (median; least-most)", "of reading", "of hashing"]
    rows = []
    for name, result in results.items():
        speed = statistics.median(result.speeds)
        spread = f"{min(result.speeds):.0f}-{max(result.speeds):.0f}"
        shares = [f"{speed / reading:.2f}", f"{speed / hashing:.2f}"]
        cost, growth = statistics.median(result.costs), max(result.growths)
        rows.append([name, f"{speed:.0f}; {spread}", *shares, f"{cost:.2f}", f"{growth:.1f} MiB"])
    return markdown.table(["endpoint", *speeds, "CPU s/GiB", "RSS growth, most"], rows)


def broken(results: dict[str, Result]) -> list[str]:
    """What is not as it should be: flat memory, and most of the speed of an endpoint that only reads."""
    found = []
    if any(growth >= FLAT_MIB for result in results.values() for growth in result.growths):
        found.append(f"memory is not flat: RSS grew by {FLAT_MIB} MiB or more")
    reading = statistics.median(results["bare endpoint, reads"].speeds)
    for name, result in results.items():
        share = statistics.median(result.speeds) / reading
        if name.startswith("API") and share < LEAST_SHARE:
            found.append(f"{name}: {share:.2f} of a bare endpoint's speed")
    return found


def hardware() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description="Upload speed and memory of the API.")
    parser.add_argument("--mebibytes", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--note", default="")
    parser.add_argument("--serve", choices=["bare", "api"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port, arguments.data_dir)
        return
    load = os.getloadavg()[0]
    results = measure(arguments.mebibytes, arguments.repeats)
    text = "\n\n".join(
        part
        for part in (
            "# Uploads: speed and memory",
            f"{markdown.today()}, {hardware()}; uvicorn {uvicorn.__version__}, one process, loopback; "
            f"{arguments.mebibytes} MiB an upload, {arguments.repeats} repeats in turns, "
            f"load average at the start {load:.1f}.",
            arguments.note,
            "\n".join(table(results)),
            f"Made by `python benchmarks/upload.py --mebibytes {arguments.mebibytes} "
            f"--repeats {arguments.repeats}`. The API also writes the file and syncs it to disk before it "
            "answers; the bare endpoints keep nothing. RSS growth is from before the first request to the "
            "highest of the samples taken every 20 ms.",
        )
        if part
    )
    print("\n" + text)
    if arguments.output:
        markdown.write(arguments.output, [text])
    if found := broken(results):
        raise SystemExit("; ".join(found))


if __name__ == "__main__":
    main()
