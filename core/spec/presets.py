"""Methods whose options, where they are left out (null), take the value of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from core.spec.fields import Start

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


class Config(Protocol):
    """A config names its preset; every other field of its settings is an option, null where it is absent."""

    @property
    def preset(self) -> str: ...


def resolve(
    config: Config, settings_type: type[Settings], presets: Mapping[str, Mapping[str, Any]]
) -> Settings:
    """The settings that `config` asks for: every absent option filled in from its preset."""
    chosen = {field.name: getattr(config, field.name) for field in fields(settings_type)}
    given = {name: value for name, value in chosen.items() if value is not None}
    return settings_type(**{**presets[config.preset], **given})


def check_start(start: Start, *, fold_bn: bool, calibrated: bool) -> None:
    """Raises ValueError where training cannot start from what `start` names."""
    if start == "fast" and not (fold_bn and calibrated):
        raise ValueError(
            'start "fast" needs fold_bn true and ranges "learned" or "calibrated"; else give start "nearest"'
        )
