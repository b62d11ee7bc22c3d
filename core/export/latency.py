"""How long one image takes: float32 against the low-bit file, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from core.export.builder import INPUT
from core.export.session import open_session


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for a batch of one."""

    median_ms: float
    p90_ms: float
    runs: int


def measure_latency(
    files: Mapping[str, Path], input_shape: tuple[int, int, int], *, threads: int, seconds: float
) -> dict[str, Latency]:
    """Runs every file in turn until `seconds` have passed (at least 5 rounds after 2 to warm up).

    Taking turns lets a change of the machine's speed fall on all files alike.
    """
    sessions = {name: open_session(path, threads=threads) for name, path in files.items()}
    image = np.random.default_rng(0).standard_normal((1, *input_shape), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 7 or (time.perf_counter() < end and rounds < 500):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, {INPUT: image})
            if rounds >= 2:
                times[name].append(1e3 * (time.perf_counter() - began))
        rounds += 1
    return {name: Latency(median(t), quantiles(t, n=10)[-1], len(t)) for name, t in times.items()}
