"""Settings of hypothesis for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples at every run, on machines of any speed.
REPEATABLE = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
