from __future__ import annotations

import pytest

from api.access.slots import Slots


def test_an_owner_has_so_many_and_gets_them_back() -> None:
    slots = Slots(2)
    with slots.one("ann") as first, slots.one("ann") as second, slots.one("ann") as third:
        assert (first, second, third) == (True, True, False)
        assert slots.used("ann") == 2
        with slots.one("bob") as other:
            assert other, "owners have their own"
    assert slots.used("ann") == 0
    with pytest.raises(RuntimeError), slots.one("ann"):
        raise RuntimeError
    assert slots.used("ann") == 0


def test_zero_is_no_limit() -> None:
    slots = Slots(0)
    with slots.one("ann") as first, slots.one("ann") as second:
        assert first and second and slots.used("ann") == 2
