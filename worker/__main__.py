"""`python -m worker device` computes jobs; `python -m worker control` inspects uploads and sweeps.

What follows is given to `celery worker` as it is. `ZSQ_LOG_LEVEL` says how much is logged.
"""

from __future__ import annotations

import sys

from store.logging import configure
from store.queue import CONTROL_QUEUE, DEVICE_QUEUE
from store.settings import store_settings
from worker.app import app

# One job at a time on a device; on the control side a long inspection must not hold up the sweep.
ROLES = {
    "device": ["--queues", DEVICE_QUEUE, "--hostname", "device@%h", "--concurrency", "1"],
    "control": ["--queues", CONTROL_QUEUE, "--hostname", "control@%h", "--concurrency", "2"],
}
COMMON = ["--pool", "threads", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def main() -> None:
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role not in ROLES:
        sys.exit(f"usage: python -m worker {{{','.join(ROLES)}}} [options of `celery worker`]")
    configure(store_settings().log_format, store_settings().log_level)
    # Quiet: its banner is no log line.
    app.worker_main(["--quiet", "worker", *COMMON, *ROLES[role], *sys.argv[2:]])


if __name__ == "__main__":
    main()
