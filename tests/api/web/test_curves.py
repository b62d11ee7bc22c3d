"""The dashboard's curves of a job's losses, in the JavaScript that browsers run."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from api.routes.web import WEB
from tests.api.conftest import Api

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js runs the page's own script")


def traces(losses: list[dict[str, float | None]]) -> list[dict[str, Any]]:
    assert NODE is not None
    code = (WEB / "static" / "curves.js").read_text()
    code += f"console.log(JSON.stringify(traces({json.dumps(losses)})))"
    result = subprocess.run([NODE, "-"], input=code, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


@needs_node
def test_a_curve_goes_from_corner_to_corner_in_the_values_own_range() -> None:
    [kl, generator] = traces(
        [
            {"iteration": 10, "kl": 3.0, "generator": -2.0},
            {"iteration": 20, "kl": 2.0, "generator": -2.0},
            {"iteration": 30, "kl": 1.0, "generator": -1.0},
        ]
    )
    assert kl == {
        "name": "kl",
        "path": "M0.0 0.0h0L100.0 24.0L200.0 48.0",
        "first": 3,
        "last": 1,
        "low": 1,
        "high": 3,
    }
    assert generator["path"] == "M0.0 48.0h0L100.0 48.0L200.0 0.0", "negative losses as well; up is more"


@needs_node
def test_what_was_not_finite_is_a_gap_and_what_was_not_told_is_none() -> None:
    [kl, rare] = traces(
        [
            {"iteration": 0, "kl": 1.0, "rare": 0.0},
            {"iteration": 1, "kl": None},
            {"iteration": 2, "kl": 0.0, "rare": 1.0, "never": None},
        ]
    )
    assert kl["path"] == "M0.0 0.0h0M200.0 48.0h0"
    assert rare["path"] == "M0.0 48.0h0L200.0 0.0"


@needs_node
def test_a_single_iteration_is_a_dot_in_the_middle() -> None:
    [found] = traces([{"iteration": 7, "kl": 0.5}])
    assert found["path"] == "M100.0 24.0h0"
    assert traces([]) == []


@needs_node
def test_a_whole_history_stays_in_its_box() -> None:
    history = [{"iteration": float(i), "kl": (i * 37 % 101) - 50.0} for i in range(1, 202)]
    [found] = traces(history)
    numbers = [pair.split("h")[0].split() for pair in found["path"][1:].split("L")]
    xs, ys = zip(*((float(x), float(y)) for x, y in numbers), strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (0, 200, 0, 48)
    assert list(xs) == sorted(xs)


def test_the_page_has_a_place_for_the_curves_before_it_needs_them(api: Api) -> None:
    page = api.http.get("/").text
    assert page.index("/static/curves.js") < page.index("/static/dashboard.js")
    for name in ("losses", "curves"):
        assert f'class="{name}"' in page
        assert f'".{name}"' in (WEB / "static" / "curves.js").read_text()
