"""Is anything lost, doubled, stuck or left behind when parts of zsq are killed, and does it keep up?

    python benchmarks/reliability.py [kill|crowd|stale|resume|load|upload|all] [--short] [--write]

Starts real processes: PostgreSQL, Valkey, an S3 server (moto), API processes, workers. `kill` sends SIGKILL
to every part at every phase of a job; `crowd` has many clients send every job more than once while workers
die; `stale` lets a worker sleep through its lease; `resume` kills a training under way; `load` has pollers
and event streams beside a running job, on SQLite and on PostgreSQL; `upload` compares the API with a bare
endpoint. Ends with status 1 when a claim is broken. `--write` puts the tables into the page of the day and
leaves its other sections as they are; `--short` takes a minute or two and shows less.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import markdown
import upload
from faults import claims, crowd, kill_matrix, load, resume, stale, work
from faults.callers import Caller
from faults.cluster import SETTINGS, Cluster, Shape

TITLE = "# Reliability: what survives which fault, and how much load"
HARDWARE = "amd-epyc-2core"
COLLECTED_SECONDS = 60.0
# One cell for each part that can be killed, and every phase but two.
SHORT_CELLS = [
    ("worker", "validating"),
    ("Valkey", "queued"),
    ("PostgreSQL", "synthesizing"),
    ("child", "training"),
    ("API", "evaluating"),
    ("worker", "publishing"),
]


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    words: str
    table: Sequence[str]
    broken: Sequence[str]

    def lines(self) -> list[str]:
        return [f"## {self.title}", "", self.words, "", *self.table, ""]


@contextmanager
def started(
    shape: Shape, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[Cluster, Caller, work.Inputs]]:
    with Cluster(shape, settings) as cluster, Caller(cluster.urls) as caller:
        print(f"started: {shape}", flush=True)
        yield cluster, caller, work.Inputs.upload(caller, cluster.folder / "inputs")


def settings_in_words() -> str:
    return ", ".join(f"{name}={value}" for name, value in SETTINGS.items() if name.startswith("ZSQ_"))


def kill(options: argparse.Namespace) -> Section:
    cells = SHORT_CELLS if options.short else kill_matrix.CELLS
    hits = 1 if options.short else options.hits
    with started(Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        found = kill_matrix.Matrix(cluster, caller, inputs).run(cells, hits)
        orphans = claims.blobs_are_named(cluster.records, COLLECTED_SECONDS)
    missing = [
        f"{cell.target} at {cell.phase}: {len(cell.hits)} hits" for cell in found if len(cell.hits) < hits
    ]
    broken = [broken for cell in found for hit in cell.hits for broken in hit.broken] + orphans + missing
    not_valid = "; ".join(
        f"{target} at {phase}: {why}" for (target, phase), why in kill_matrix.NOT_VALID.items()
    )
    words = (
        f"SIGKILL at that phase, {hits} hit(s) of each of {len(found)} cells, in one cluster after the other: 1 API, "
        f"1 control worker, 2 workers, PostgreSQL, Valkey without persistence, blobs in {options.blobs}. A hit "
        "counts when the job's events show that it was in that phase when the process was dead; else it is a "
        f"miss and is tried again. No cells: {not_valid}. A worker that is killed at `validating` is the control "
        "worker, which inspects uploads; at `queued` it is one that is busy with a job ahead. After every hit: "
        "the job and those around it ended once, with all files and their right sums or with a clear code, in at "
        f"most {claims.MAX_ATTEMPTS} attempts; no child and nothing of the killed process is left. Blobs after "
        f"collection at the end: {'; '.join(orphans) or 'exactly those that rows name'}. {settings_in_words()}."
    )
    table = markdown.table(kill_matrix.COLUMNS, (cell.row() for cell in found))
    return Section("Kill matrix", words, table, broken)


def crowded(options: argparse.Namespace) -> Section:
    jobs, clients = (20, 5) if options.short else (options.jobs, options.clients)
    with started(Shape(apis=2, workers=3, blobs=options.blobs)) as (cluster, _, inputs):
        found = crowd.run(cluster, inputs, jobs=jobs, clients=clients, every=options.every)
        orphans = claims.blobs_are_named(cluster.records, COLLECTED_SECONDS)
    found.broken += orphans
    words = (
        "Every job is sent once to three times at the same time with one `Idempotency-Key`, through 2 API "
        f"processes; of 3 workers the next one that has a job is killed every {options.every:g} s and started "
        "again."
    )
    return Section("Crowd", words, markdown.table(["what", "found"], found.rows()), found.broken)


def sleeping(options: argparse.Namespace) -> Section:
    with started(Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        phases = ("training",) if options.short else ("training", "publishing")
        found = [stale.run(cluster, caller, inputs, phase) for phase in phases]
        orphans = claims.blobs_are_named(cluster.records, COLLECTED_SECONDS)
    words = (
        "SIGSTOP to a worker and its child until its lease was taken and the job done by another worker, then "
        "SIGCONT. Compared before and after: every column of the row, its events, its artifacts, the blobs that "
        f"rows name. Blobs after collection: {'; '.join(orphans) or 'exactly those that rows name'}."
    )
    table = markdown.table(stale.COLUMNS, (each.row() for each in found))
    return Section(
        "Stale worker", words, table, [*orphans, *(broken for each in found for broken in each.broken)]
    )


def resumed(options: argparse.Namespace) -> Section:
    with started(Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        found = resume.run(cluster, caller, inputs, options.steps)
        orphans = claims.blobs_are_named(cluster.records, COLLECTED_SECONDS)
    words = "A ZAQ job on a small network, unbroken, and again with its worker killed at 60 % of its steps."
    return Section(
        "Resume", words, markdown.table(["what", "found"], found.rows()), [*found.broken, *orphans]
    )


def loaded(options: argparse.Namespace) -> Section:
    found = []
    for database in ("sqlite", "postgresql"):
        with started(Shape(workers=1, database=database)) as (cluster, caller, inputs):
            found.append(
                load.run(
                    cluster,
                    caller,
                    inputs,
                    pollers=options.pollers,
                    streams=options.streams,
                    steps=options.steps // 4 if options.short else options.steps,
                    repeats=1 if options.short else options.repeats,
                )
            )
    words = (
        f"{options.pollers} pollers, each asking once a second as `Retry-After` says, and {options.streams} event "
        "streams follow one job; 1 API process, 1 worker with 1 thread, and the client of all of them on the same "
        f"2 cores. Trainings alone and beside them in turns, {options.repeats} of each, medians. Then the pollers "
        "ask again as soon as they are answered, beside no job."
    )
    table = markdown.table(load.COLUMNS, (each.row() for each in found))
    return Section("Load", words, table, [broken for each in found for broken in each.broken])


def uploaded(options: argparse.Namespace) -> Section:
    mebibytes = 256 if options.short else options.mebibytes
    found = upload.measure(mebibytes, options.repeats)
    words = (
        f"{mebibytes} MiB an upload, {options.repeats} repeats in turns, by `benchmarks/upload.py`: one API process "
        "beside bare ASGI endpoints on the same server. The API also writes the file and syncs it to disk."
    )
    return Section("Uploads", words, upload.table(found), upload.broken(found))


PARTS: Mapping[str, Callable[[argparse.Namespace], Section]] = {
    "kill": kill,
    "crowd": crowded,
    "stale": sleeping,
    "resume": resumed,
    "load": loaded,
    "upload": uploaded,
}


def merged(page: str, sections: Sequence[Section]) -> list[str]:
    """The page with these sections in place of those of the same titles, the rest as it was."""
    known = {
        text.partition("\n")[0]: ["## " + text.rstrip(), ""]
        for text in re.split(r"^## ", page, flags=re.M)[1:]
    }
    known |= {section.title: section.lines() for section in sections}
    head = [
        TITLE,
        "",
        f"{markdown.today()}, {upload.hardware()}. Made by `python benchmarks/reliability.py`.",
        "",
    ]
    lines = head + [line for lines in known.values() for line in lines]
    return lines[:-1]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults and load on a whole zsq of real processes.")
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS])
    parser.add_argument("--short", action="store_true", help="a minute or two, for a look")
    parser.add_argument("--write", action="store_true", help="into the page of the day, beside this program")
    parser.add_argument("--output", type=Path, help="write into this page instead")
    parser.add_argument("--blobs", choices=["folder", "s3"], default="s3")
    parser.add_argument("--hits", type=int, default=3, help="of each cell of the kill matrix")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills in the crowd")
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1200, help="of the trainings that resume or are slowed")
    parser.add_argument("--repeats", type=int, default=3, help="of the trainings and uploads that are timed")
    parser.add_argument("--mebibytes", type=int, default=2048)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    # What was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    parts = PARTS if options.part == "all" else {options.part: PARTS[options.part]}
    sections = []
    for name, part in parts.items():
        print(f"{name}: load average {os.getloadavg()[0]:.1f}", flush=True)
        sections.append(part(options))
        print("\n".join(sections[-1].lines()), flush=True)
    path = options.output or (markdown.page("reliability", HARDWARE) if options.write else None)
    if path is not None:
        markdown.write(path, merged(path.read_text() if path.exists() else "", sections))
    broken = [broken for section in sections for broken in section.broken]
    print("\n".join(["claims broken:", *broken]) if broken else "every claim held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
