"""`python -m worker cpu` and `gpu` compute jobs; `control` inspects uploads and sweeps.

What follows is given to `celery worker` as it is, for example `--queues zsq.cpu` to leave jobs that may
run anywhere to other workers. `ZSQ_LOG_LEVEL` says how much is logged.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from store.logging import configure
from store.queue import ANY_QUEUE, CONTROL_QUEUE, CPU_QUEUE, GPU_QUEUE
from store.settings import store_settings
from worker import devices
from worker.app import app
from worker.hardening import hide_memory
from worker.services import compute_on
from worker.settings import worker_settings


@dataclass(frozen=True, slots=True)
class Role:
    """The queues that a worker hears, and how many tasks it runs at once."""

    queues: tuple[str, ...]
    concurrency: int = 1


# One job at a time on a device; on the control side a long inspection must not hold up short ones.
ROLES = {
    "cpu": Role((CPU_QUEUE, ANY_QUEUE)),
    "gpu": Role((GPU_QUEUE, ANY_QUEUE)),
    "control": Role((CONTROL_QUEUE,), concurrency=2),
}
COMMON = ["--pool", "threads", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in ROLES:
        sys.exit(f"usage: python -m worker {{{','.join(ROLES)}}} [options of `celery worker`]")
    configure(store_settings().log_format, store_settings().log_level)
    hide_memory()
    if name == "gpu":
        compute_on(_a_gpu())
    role = ROLES[name]
    own = ["--hostname", f"{name}@%h", "--queues", ",".join(role.queues)]
    options = [*COMMON, *own, "--concurrency", str(role.concurrency)]
    # Quiet: its banner is no log line.
    app.worker_main(["--quiet", "worker", *options, *sys.argv[2:]])


def _a_gpu() -> str:
    try:
        locks = store_settings().data_dir / "devices"
        return devices.take_gpu(worker_settings().device, devices.gpus(), locks)
    except devices.NoDevice as error:
        sys.exit(f"python -m worker gpu: {error}")


if __name__ == "__main__":
    main()
