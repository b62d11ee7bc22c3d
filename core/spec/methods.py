"""Which methods there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from core.spec.fast import FastConfig
from core.spec.gdfq import GdfqConfig
from core.spec.minmax import MinMaxConfig
from core.spec.zaq import ZaqConfig
from core.spec.zeroq import ZeroqConfig

MethodConfig = FastConfig | GdfqConfig | MinMaxConfig | ZaqConfig | ZeroqConfig
METHOD_CONFIGS: Mapping[str, type[MethodConfig]] = {
    "fast": FastConfig,
    "gdfq": GdfqConfig,
    "minmax": MinMaxConfig,
    "zaq": ZaqConfig,
    "zeroq": ZeroqConfig,
}


def _method_shorthand(value: Any) -> Any:
    """`"zaq"` -> `{"name": "zaq"}`; an unknown name is refused here, with the names there are."""
    name = value if isinstance(value, str) else value.get("name") if isinstance(value, Mapping) else None
    if isinstance(name, str) and name not in METHOD_CONFIGS:
        raise ValueError(f"unknown method {name[:100]!r}; there are: {', '.join(sorted(METHOD_CONFIGS))}")
    if isinstance(value, Mapping) and name is None:
        raise ValueError(f"method needs a name; there are: {', '.join(sorted(METHOD_CONFIGS))}")
    return {"name": value} if isinstance(value, str) else value


AnyMethod = Annotated[
    Annotated[MethodConfig, Field(discriminator="name")], BeforeValidator(_method_shorthand)
]
