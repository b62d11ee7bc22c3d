"""Is anything lost, doubled, stuck or left behind when parts of zsq are killed, and does it keep up?

    python benchmarks/reliability.py [kill|crowd|stale|resume|load|upload|all] [--short] [--write]

Starts real processes: PostgreSQL, Valkey, an S3 server (moto), API processes, workers. `kill` sends SIGKILL
to every part at every phase of a job; `crowd` has many clients send every job more than once while workers
die, and says every half minute how far it is; `stale` lets a worker sleep through its lease; `resume` kills
a training under way; `load` has pollers and event streams beside a running job, on SQLite and on PostgreSQL;
`upload` compares the API with bare endpoints. Ends with status 1 when a claim is broken. `--write` puts the
tables into the page of the day and leaves its other sections as they are; `--short` shows less in minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import markdown
import upload
from faults.page import merged
from faults.sections import PARTS

TITLE = "# Reliability: what survives which fault, and how much load"
HARDWARE = "amd-epyc-2core"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults and load on a whole zsq of real processes.")
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS])
    parser.add_argument("--short", action="store_true", help="less of everything")
    parser.add_argument("--write", action="store_true", help="into the page of the day, beside this program")
    parser.add_argument("--output", type=Path, help="into this page instead")
    parser.add_argument("--logs", type=Path, help="keep the logs of the last cluster in this folder")
    parser.add_argument("--note", default="", help="a sentence for the head of the page")
    parser.add_argument("--blobs", choices=["folder", "s3"], default="s3")
    parser.add_argument("--hits", type=int, default=3, help="of each cell of the kill matrix")
    parser.add_argument("--jobs", type=int, default=200, help="of the crowd")
    parser.add_argument("--clients", type=int, default=20, help="of the crowd")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills in the crowd")
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1200, help="of the trainings that resume or are slowed")
    parser.add_argument("--repeats", type=int, default=3, help="of the trainings and uploads that are timed")
    parser.add_argument("--mebibytes", type=int, default=2048, help="of an upload")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    # What was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    broken: list[str] = []
    for name in PARTS if options.part == "all" else [options.part]:
        print(f"{name}: load average {os.getloadavg()[0]:.1f}", flush=True)
        section = PARTS[name](options)
        broken += section.broken
        print("\n".join(section.lines()), flush=True)
        path = options.output or (markdown.page("reliability", HARDWARE) if options.write else None)
        if path is not None:
            head = [TITLE, "", f"{markdown.today()}, {upload.hardware()}. {options.note}".rstrip()]
            page = path.read_text() if path.exists() else ""
            markdown.write(path, merged(page, head, [section]))
    print("\n".join(["claims broken:", *broken]) if broken else "every claim held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
