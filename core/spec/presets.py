"""Methods whose options, where they are left out (null), take the value of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
