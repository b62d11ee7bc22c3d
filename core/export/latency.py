"""How long one image takes: several files of one network, interleaved in one run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from core.export.builder import INPUT
from core.export.session import open_session

_WARM_UP = 2
_FEWEST, _MOST = _WARM_UP + 5, _WARM_UP + 1000
# For so long the fewest rounds are waited for; networks that take longer for them get fewer.
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for a batch of one; `processor_ms` is the median of what all threads together computed.

    On a machine that does other things meanwhile, processor times still compare.
    """

    median_ms: float
    p90_ms: float
    processor_ms: float
    runs: int


def measure_latency(
    files: Mapping[str, Path],
    input_shape: tuple[int, int, int],
    *,
    threads: int,
    seconds: float,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Latency]:
    """Runs every file once a round, until `seconds` have passed. `threads` 0 is all of them.

    Interleaving lets a change of the machine's speed fall on all files alike, and the order changes
    from round to round (see `orders`). The first two rounds warm up, and five more are measured
    even past `seconds`, unless they take more than a minute. `check` is called before each round
    and may raise to stop.
    """
    sessions = {name: open_session(path, threads=threads) for name, path in files.items()}
    image = np.random.default_rng(0).standard_normal((1, *input_shape), dtype=np.float32)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
    began = time.perf_counter()
    for count, order in enumerate(orders(list(sessions)), start=1):
        check()
        for name in order:
            start, computed = time.perf_counter(), time.process_time()
            sessions[name].run(None, {INPUT: image})
            if count > _WARM_UP:
                times[name].append((time.perf_counter() - start, time.process_time() - computed))
        elapsed = time.perf_counter() - began
        enough = count >= _FEWEST or elapsed >= _PATIENCE
        if count == _MOST or (count > _WARM_UP and enough and elapsed >= seconds):
            break
    return {name: _summary(found) for name, found in times.items()}


def orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Endlessly, the names in a new random order, so that none always follows the same other.

    What ran before decides what the caches hold; and none runs twice in a row, with its own weights there.
    """
    shuffle, last = random.Random(0), None
    while True:
        order = shuffle.sample(names, len(names))
        if order[0] == last:
            order.reverse()
        yield order
        last = order[-1]


def _summary(times: list[tuple[float, float]]) -> Latency:
    wall, processor = ([1e3 * seconds for seconds in kind] for kind in zip(*times, strict=True))
    # "inclusive" never goes beyond what was measured.
    p90 = quantiles(wall, n=10, method="inclusive")[-1] if len(wall) > 1 else wall[0]
    return Latency(median(wall), p90, median(processor), len(times))
