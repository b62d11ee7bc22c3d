"""Each part of the proof as a section of the page: its cluster, its run, its words."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import markdown
import upload

from faults import claims, crowd, kill_matrix, load, resume, stale, work
from faults.callers import Caller
from faults.cluster import SETTINGS, Cluster, Shape
from faults.page import Section

COLLECTED_SECONDS = 60.0
# Every part that can be killed, and every phase but two.
SHORT_CELLS = [
    ("worker", "validating"),
    ("Valkey", "queued"),
    ("PostgreSQL", "synthesizing"),
    ("child", "training"),
    ("API", "evaluating"),
    ("worker", "publishing"),
]


@contextmanager
def started(
    options: Namespace, shape: Shape, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[Cluster, Caller, work.Inputs]]:
    with Cluster(shape, settings, keep_logs=options.logs) as cluster, Caller(cluster.urls) as caller:
        yield cluster, caller, work.Inputs.upload(caller, cluster.folder / "inputs")


def kill(options: Namespace) -> Section:
    cells = SHORT_CELLS if options.short else kill_matrix.CELLS
    hits = 1 if options.short else options.hits
    with started(options, Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        found = kill_matrix.Matrix(cluster, caller, inputs).run(cells, hits)
        orphans = _orphans(cluster)
    broken = [broken for cell in found for hit in cell.hits for broken in hit.broken]
    broken += [f"{cell.target} at {cell.phase} was never hit" for cell in found if not cell.hits]
    none = "; ".join(f"{target} at {phase} ({why})" for (target, phase), why in kill_matrix.NOT_VALID.items())
    words = f"""\
One cluster, one hit after the other: 1 API, 1 control worker, 2 workers, PostgreSQL, Valkey without
persistence, blobs in {_in_words(options.blobs)}. A hit counts when the job's events show that it was in the
phase when the process was dead; otherwise it is a miss, and tried again. Cells that cannot be: {none}.
At `validating` the worker is the control worker, which inspects uploads; at `queued` it is one that is busy
with a job ahead.

After every hit: the job, and those around it, ended once, with all files and their right sums or with a clear
code, in at most {cluster.max_attempts} attempts, and no child and nothing of the killed process is left.
After collection, the store holds {_collected(orphans)}.

{_settings()}"""
    table = markdown.table(kill_matrix.COLUMNS, (cell.row() for cell in found))
    return Section("Kill matrix", words, table, broken + orphans)


def crowded(options: Namespace) -> Section:
    jobs, clients = (20, 5) if options.short else (options.jobs, options.clients)
    shape = Shape(apis=2, workers=3, blobs=options.blobs)
    # A lost job is claimed again some seconds before the next kill, so that chance alone may spend three.
    with started(options, shape, {"ZSQ_MAX_ATTEMPTS": "6"}) as (cluster, _, inputs):
        found = crowd.run(cluster, inputs, jobs=jobs, clients=clients, every=options.every)
        orphans = _orphans(cluster)
    words = f"""\
2 API processes, 3 workers. Every job is sent once to three times at the same moment with one
`Idempotency-Key`, the copies through both APIs. Every {options.every:g} s the next worker that has a job is
killed, and started again; a job may be started {cluster.max_attempts} times. After collection, the store
holds {_collected(orphans)}."""
    return Section("Crowd", words, markdown.table(["what", "found"], found.rows()), [*found.broken, *orphans])


def sleeping(options: Namespace) -> Section:
    phases = ("training",) if options.short else ("training", "publishing")
    with started(options, Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        found = [stale.run(cluster, caller, inputs, phase) for phase in phases]
        orphans = _orphans(cluster)
    words = f"""\
SIGSTOP to a worker and all its processes until its lease was taken and its job done by another one, then
SIGCONT. Compared for a while with what was before: every column of the row, the events, the artifacts, the
blobs that rows name. Then the worker gets other jobs. After collection, the store holds
{_collected(orphans)}."""
    table = markdown.table(stale.COLUMNS, (each.row() for each in found))
    broken = [broken for each in found for broken in each.broken]
    return Section("Stale worker", words, table, broken + orphans)


def resumed(options: Namespace) -> Section:
    steps = options.steps // 4 if options.short else options.steps
    with started(options, Shape(blobs=options.blobs)) as (cluster, caller, inputs):
        found = resume.run(cluster, caller, inputs, steps)
        orphans = _orphans(cluster)
    words = f"""\
A ZAQ job on a small network, unbroken, and the same with its worker killed at {resume.KILL_AT:.0%} of its
steps. After collection, the store holds {_collected(orphans)}."""
    return Section(
        "Resume", words, markdown.table(["what", "found"], found.rows()), [*found.broken, *orphans]
    )


def loaded(options: Namespace) -> Section:
    repeats = 1 if options.short else options.repeats
    sizes = {"pollers": options.pollers, "streams": options.streams, "steps": options.steps}
    found = []
    for database in load.DATABASES:
        with started(options, Shape(workers=1, database=database)) as (cluster, caller, inputs):
            found.append(load.run(cluster, caller, inputs, **sizes, repeats=repeats))
    words = f"""\
1 API process and 1 worker with 1 thread; {options.pollers} pollers that ask once a second, oftener
than `Retry-After` says, and {options.streams} event streams follow one job. Their client, one process, runs
on the same cores. Trainings alone and beside them in turns, {repeats} of each, medians. Then the pollers
ask again as soon as they are answered, beside no job."""
    table = markdown.table(load.COLUMNS, (each.row() for each in found))
    return Section("Load", words, table, [broken for each in found for broken in each.broken])


def uploaded(options: Namespace) -> Section:
    mebibytes = 256 if options.short else options.mebibytes
    repeats = 1 if options.short else options.repeats
    found = upload.measure(mebibytes, repeats)
    words = f"""\
{mebibytes} MiB an upload, {repeats} repeats in turns, by `benchmarks/upload.py`: one API process beside bare
ASGI endpoints on the same server. The API also writes the file and syncs it to disk; they keep nothing."""
    return Section("Uploads", words, upload.table(found), upload.broken(found))


PARTS: Mapping[str, Callable[[Namespace], Section]] = {
    "kill": kill,
    "crowd": crowded,
    "stale": sleeping,
    "resume": resumed,
    "load": loaded,
    "upload": uploaded,
}


def _orphans(cluster: Cluster) -> list[str]:
    return claims.blobs_are_named(cluster.records, COLLECTED_SECONDS)


def _collected(orphans: list[str]) -> str:
    return "; ".join(orphans) or "what rows name and nothing else"


def _in_words(blobs: str) -> str:
    return "S3 (moto over HTTP)" if blobs == "s3" else "a local folder"


def _settings() -> str:
    named = (f"`{name}={value}`" for name, value in SETTINGS.items() if name.startswith("ZSQ_"))
    return f"Settings: {', '.join(named)}."
