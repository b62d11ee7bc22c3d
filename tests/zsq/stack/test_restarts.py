from __future__ import annotations

from zsq.stack.restarts import DEATHS_IN_WINDOW, FIRST_DELAY, LONGEST_DELAY, WINDOW_SECONDS, Restarts


def test_delays_grow_and_end() -> None:
    restarts = Restarts()
    delays = [restarts.died(now) for now in range(DEATHS_IN_WINDOW)]
    assert delays[0] == FIRST_DELAY
    assert delays[-1] is None, "given up"
    grown = [delay for delay in delays if delay is not None]
    assert grown == sorted(grown) and grown[-1] <= LONGEST_DELAY


def test_a_part_that_ran_for_long_starts_afresh() -> None:
    restarts = Restarts()
    for death in range(10 * DEATHS_IN_WINDOW):
        assert restarts.died(death * (WINDOW_SECONDS + 1)) == FIRST_DELAY
