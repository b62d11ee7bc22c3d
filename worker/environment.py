"""The environment that children have. They need no network and no database, so whatever looks like a key is
kept from them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(
    r"(_URL|_DSN|_HEADERS|_PROXY)$|^AWS_|^PG|SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY",
    re.IGNORECASE,
)
# An address with a user or a password.
_SECRET_VALUE = re.compile(r"://\S*@")

# They bind OpenMP's threads to cores, by calls that name threads. A filter of system calls cannot tell
# whose those are, so a child may not make them; and OpenMP, refused, would end it.
_BINDING = frozenset({"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"})

# An idle OpenMP thread otherwise burns its core for 200 ms after each operator.
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}


def fit(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child may have of it, and what is set for it where nobody else has."""
    kept = {name: value for name, value in environment.items() if not _unfit(name, value)}
    return {**_DEFAULTS, **kept}


def _unfit(name: str, value: str) -> bool:
    return name in _BINDING or bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))
