"""Every method has a config, a test and a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.methods.registry import METHODS, folds_bn, trains
from core.spec import METHOD_CONFIGS, ZaqConfig

ROOT = Path(__file__).parents[3]


def test_methods_and_configs_are_the_same() -> None:
    assert METHODS.keys() == METHOD_CONFIGS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_test_and_a_page(name: str) -> None:
    assert (ROOT / f"tests/core/methods/test_{name}.py").is_file()
    assert (ROOT / f"docs/methods/{name}.md").is_file()


@pytest.mark.parametrize("name", METHODS)
def test_defaults_fold_bn_and_the_paper_preset_keeps_it(name: str) -> None:
    assert folds_bn(METHOD_CONFIGS[name]())
    assert not folds_bn(ZaqConfig(preset="paper"))


def test_what_has_a_budget_is_trained() -> None:
    """A budget is what training may take; the pipeline has other weights for phases without any."""
    trained = {name for name, config in METHOD_CONFIGS.items() if trains(config())}
    assert trained == {name for name, config in METHOD_CONFIGS.items() if hasattr(config(), "budget")}
    assert trained and trained < METHODS.keys()
