"""The whole service over HTTP, with parts of it killed under way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.running import LONG, QUICK, Running
from zsq.stack import Stack, StackError


def training(job: object) -> bool:
    return getattr(job, "phase", None) == "training"


def test_a_job_from_upload_to_a_file_that_runs(
    running: Running, network_file: Path, images_file: Path, tmp_path: Path
) -> None:
    import numpy as np
    import onnxruntime

    # Everything at once: the job waits until both uploads were inspected.
    dataset = running.upload_images(images_file)
    job = running.wait(running.submit(network_file, QUICK, dataset_id=dataset.id))
    assert job.status == "succeeded", f"{job.error}\n{running.logs()}"
    assert job.attempt == 1
    assert {artifact.name for artifact in running.client.artifacts(job.id)} >= {"model.onnx", "report.json"}
    report = running.client.report(job.id)
    assert report["accuracy"]["onnxruntime"]["total"] == 100

    model = tmp_path / "model.onnx"
    running.client.download(job.id, "model.onnx", model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(images_file) as images:
        x_NCHW = (images["x"].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.25
        y = images["y"]
    (logits,) = session.run(None, {session.get_inputs()[0].name: x_NCHW})
    assert int((logits.argmax(1) == y).sum()) == report["accuracy"]["onnxruntime"]["correct"]


def test_a_rejected_checkpoint_fails_its_jobs(running: Running, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04 this is no archive")
    job = running.wait(running.submit(broken, QUICK))
    assert job.status == "failed"
    assert job.error is not None and job.error.code == "checkpoint_rejected"


def test_a_running_and_a_queued_job_can_be_canceled(running: Running, network_file: Path) -> None:
    first = running.submit(network_file, LONG)
    second = running.submit(network_file, LONG, seed=1)
    running.until(first, training)
    assert running.client.job(second.id).status == "queued", "one job at a time on a device"
    for job in (second, first):
        running.client.cancel(job.id)
        assert running.wait(job, 30).status == "canceled"


def test_a_job_whose_worker_is_killed_runs_again_and_ends_once(running: Running, network_file: Path) -> None:
    job = running.submit(network_file, {**LONG, "budget": {"seconds": 3}}, seed=2)
    running.until(job, training)
    worker = psutil.Process(running.stack.pid("cpu"))
    family = [worker, *worker.children(recursive=True)]
    running.kill("cpu")
    assert not psutil.wait_procs(family, timeout=30)[1], "the killed worker left something running"
    ended = running.wait(job)
    assert (ended.status, ended.attempt) == ("succeeded", 2), f"{ended.error}\n{running.logs()}"


def test_a_worker_told_to_stop_hands_its_job_back_at_once(running: Running, network_file: Path) -> None:
    job = running.submit(network_file, {**LONG, "budget": {"seconds": 5}}, seed=3)
    running.until(job, training)
    running.kill("cpu", signal.SIGTERM)
    ended = running.wait(job)
    assert (ended.status, ended.attempt) == ("succeeded", 2), f"{ended.error}\n{running.logs()}"


@pytest.mark.parametrize("part", ["broker", "api", "control"])
def test_any_other_part_may_be_killed_too(running: Running, network_file: Path, part: str) -> None:
    job = running.submit(network_file, QUICK, seed={"broker": 4, "api": 5, "control": 6}[part])
    running.kill(part)
    ended = running.wait(job)
    assert ended.status == "succeeded", f"{ended.error}\n{running.logs()}"


def test_messages_that_a_broker_lost_are_sent_again(running: Running, network_file: Path) -> None:
    first = running.submit(network_file, LONG, seed=8)
    running.until(first, training)
    second = running.submit(network_file, QUICK, seed=9)
    shutil.rmtree(running.data_dir / "broker" / "appendonlydir")
    running.kill("broker")
    running.client.cancel(first.id)
    assert running.wait(first).status == "canceled"
    ended = running.wait(second)
    assert ended.status == "succeeded", f"{ended.error}\n{running.logs()}"


def test_two_stacks_do_not_share_a_folder_or_a_port(running: Running, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="Another zsq is running"):
        Stack(data_dir=running.data_dir, port=0).start()
    with pytest.raises(StackError, match=f"Port {running.stack.port}"):
        Stack(data_dir=tmp_path, port=running.stack.port).start()


def test_a_part_that_keeps_dying_stops_the_stack(tmp_path: Path) -> None:
    said: list[str] = []
    others = set(psutil.Process().children(recursive=True))
    broken = Stack(data_dir=tmp_path, port=0, env={"ZSQ_DEVICE": "abacus"}, say=said.append)
    with pytest.raises(StackError, match="keeps dying") as caught:
        broken.start()
        broken.wait()
    assert "abacus" in str(caught.value), "the log says why"
    assert any("restarting" in line for line in said), "each restart is announced"
    assert set(psutil.Process().children(recursive=True)) <= others


class Terminal:
    """`zsq up` as somebody types it."""

    def __init__(self, data_dir: Path) -> None:
        environment = {**os.environ, "ZSQ_PORT": "0", "ZSQ_DATA_DIR": str(data_dir)}
        command = [sys.executable, "-c", "from zsq.stack import up; up()"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.family = psutil.Process(self.process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(tmp_path: Path, number: signal.Signals) -> None:
    terminal = Terminal(tmp_path)
    try:
        assert "http://127.0.0.1:" in terminal.first_line
        names = " ".join(" ".join(process.cmdline()) for process in terminal.family)
        assert "valkey" in names and "worker" in names and "api" in names
    finally:
        terminal.process.send_signal(number)
        code = terminal.process.wait(timeout=60)
    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    end = time.monotonic() + 30
    while any(process.is_running() and process.status() != "zombie" for process in terminal.family):
        assert time.monotonic() < end, f"still running: {terminal.family}"
        time.sleep(0.1)
