from __future__ import annotations

import pytest

from worker.environment import fit

OURS = {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(
    "name",
    [
        *("ZSQ_DATABASE_URL", "ZSQ_BROKER_URL", "SENTRY_DSN", "PGPASSWORD", "AWS_PROFILE", "MY_API_KEY"),
        *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"),
        *("OMP_PROC_BIND", "GOMP_CPU_AFFINITY"),
    ],
)
def test_what_a_child_must_not_have(name: str) -> None:
    assert fit({name: "value"}) == OURS


@pytest.mark.parametrize("value", ["http://u:p@proxy:3128", "redis://:p@h", "-i https://token@host/simple"])
def test_no_address_with_a_password_whatever_its_name(value: str) -> None:
    assert fit({"ANYTHING": value}) == OURS


def test_the_rest_stays() -> None:
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "HOME": "/root", "SITE": "https://example.org/a b@c"}
    assert fit(kept) == {**kept, **OURS}
    assert fit({"OMP_WAIT_POLICY": "ACTIVE"}) == {"OMP_WAIT_POLICY": "ACTIVE"}
    assert fit(fit(kept)) == fit(kept), "or a forkserver would begin anew for ever"
