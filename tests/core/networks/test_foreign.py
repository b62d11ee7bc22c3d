from __future__ import annotations

import pytest

from core.networks.foreign import is_plain, shown


def test_what_is_shown_is_short_and_printable() -> None:
    assert shown("conv1.weight") == "conv1.weight"
    assert shown("ä\0b\x1b[2J\ud800") == "ä�b�[2J�"
    assert shown("x" * 1000) == "x" * 100 + "…"


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "a\x7f", "a\x85", "\ud800", "\udcff", "x" * 11])
def test_names_that_are_not_plain(name: str) -> None:
    assert not is_plain(name, 10)


def test_names_of_all_languages_are_plain() -> None:
    assert all(is_plain(name, 10) for name in ("conv1", "Straße", "猫 и пёс", "👩‍🔬"))
