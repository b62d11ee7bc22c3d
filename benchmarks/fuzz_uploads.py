"""Do the parsers of uploads hold, whatever is sent?

    python benchmarks/fuzz_uploads.py [--minutes 20] [--seed 0] [--output FILE]

The targets and the makers of inputs are those of tests/hostile: checkpoints and evaluation sets with
changed bytes, pickles of random instructions, pictures, forms in any pieces, uploads of any content
type, any Range. Rounds of fresh seeds run until the time is up, each in a process of its own that
may take no more than the address space of an inspection, so that a crash of native code is seen, and
the input that caused it kept. Ends with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import markdown
import torch
from hypothesis import HealthCheck, given, seed, settings

from tests.hostile import mutations as made
from tests.hostile.targets import Targets

EXAMPLES = 200
ADDRESS_SPACE = 8 << 30
ROUND_SECONDS = 600.0
READ = ("read", "whole")  # "whole": a Range that says nothing, for which there is the whole file
SETTINGS = settings(
    max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)

Run = Callable[..., str]
TARGETS: dict[str, tuple[Callable[[Targets], Run], dict[str, Any]]] = {
    "checkpoints, bytes changed": (lambda t: t.checkpoint, {"data": made.CHECKPOINTS}),
    "pickles of random instructions": (lambda t: t.checkpoint, {"data": made.PICKLES}),
    "evaluation sets, bytes changed": (lambda t: t.dataset, {"data": made.DATASETS}),
    "gzipped tars, bytes changed": (lambda t: t.dataset, {"data": made.TGZ}),
    "pictures, bytes changed": (lambda t: t.dataset, {"data": made.PICTURES}),
    "forms in any pieces": (lambda t: t.form, {"data": made.FORMS, "splits": made.SPLITS}),
    "uploads of any content type": (
        lambda t: t.upload,
        {
            "data": made.FORMS,
            "content_type": made.CONTENT_TYPES,
            "query": made.QUERIES,
            "splits": made.SPLITS,
        },
    ),
    "headers of tus": (
        lambda t: t.tus,
        {"metadata": made.METADATA, "checksum": made.CHECKSUMS, "length": made.LENGTHS},
    ),
    "Range headers": (lambda t: t.range, {"value": made.RANGES}),
}


@dataclass
class Tally:
    """What came of one target's inputs; `slowest` in seconds, `kibibytes` the most that a round held."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    kibibytes: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.slowest = max(self.slowest, other.slowest)
        self.kibibytes = max(self.kibibytes, other.kibibytes)
        self.findings += other.findings


def one_round(connection: Connection, name: str, number: int, folder: Path) -> None:
    """In a process of its own: `EXAMPLES` inputs of one seed."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    torch.set_num_threads(1)
    choose, strategies = TARGETS[name]
    run, tally = choose(Targets(folder)), Tally()

    @seed(number)
    @SETTINGS
    @given(**strategies)
    def fuzz(**inputs: Any) -> None:
        began = time.monotonic()
        tally.outcomes[run(**inputs)] += 1
        tally.slowest = max(tally.slowest, time.monotonic() - began)

    before = peak()
    try:
        fuzz()
    except Exception:
        tally.findings.append(f"{name}, seed {number}:\n{traceback.format_exc()}")
    tally.kibibytes = peak() - before
    connection.send(tally)


def watched_round(name: str, number: int, folder: Path) -> Tally:
    """The tally of a round; a crash or a hang is a finding, and its input stays in `folder`."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=one_round, args=(theirs, name, number, folder))
    process.start()
    theirs.close()
    try:
        tally: Tally = ours.recv() if ours.poll(ROUND_SECONDS) else hung(process, folder)
    except EOFError:
        process.join()
        tally = Tally(findings=[f"{name}, seed {number}: ended with {process.exitcode}; input in {folder}"])
    process.join()
    if not tally.findings:
        shutil.rmtree(folder)
    return tally


def hung(process: Any, folder: Path) -> Tally:
    process.kill()
    return Tally(findings=[f"no end after {ROUND_SECONDS:g} s; input in {folder}"])


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )


def report(tallies: dict[str, Tally], minutes: float, first: int, rounds: int) -> list[str]:
    rows = [
        {
            "target": name,
            "inputs": f"{tally.outcomes.total():,}",
            "read": f"{sum(tally.outcomes[each] for each in ('read', '200', '206')):,}",
            "refused, by code": ", ".join(
                f"{code} {count:,}" for code, count in tally.outcomes.most_common() if code not in READ
            ),
            "slowest, s": f"{tally.slowest:.2f}",
            "memory, MiB": f"{tally.kibibytes / 1024:.0f}",
            "found": len(tally.findings),
        }
        for name, tally in tallies.items()
    ]
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    return [
        "# Fuzzing the parsers of uploads",
        "",
        f"{markdown.today()}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}; {minutes:.1f} minutes, {rounds} rounds of {EXAMPLES} inputs, "
        f"seeds {first} to {first + rounds - 1}, one process.",
        "",
        *markdown.records(rows),
        "",
        "Read means accepted: the changed bytes did no harm to the file or the request.",
        "Everything else was refused with a code and a sentence. *Memory* is by how much the peak of a",
        "round's process grew, torch itself aside.",
        "",
        *(
            ["## Found", "", "```", *findings, "```"]
            if findings
            else ["Crashes, hangs, other exceptions: none."]
        ),
        "",
        f"Made by `python benchmarks/fuzz_uploads.py --minutes {minutes:.0f} --seed {first}`.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the multipart parser tells of every bad byte
    began, rounds = time.monotonic(), 0
    tallies = {name: Tally() for name in TARGETS}
    base = Path(tempfile.mkdtemp(prefix="zsq-fuzz-"))
    while (spent := time.monotonic() - began) < 60 * options.minutes:
        name = list(TARGETS)[rounds % len(TARGETS)]
        tallies[name].add(watched_round(name, options.seed + rounds, base / str(rounds)))
        rounds += 1
    lines = report(tallies, spent / 60, options.seed, rounds)
    print("\n".join(lines))
    if options.output:
        markdown.write(options.output, lines)
    found = any(tally.findings for tally in tallies.values())
    if not found:
        shutil.rmtree(base)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
