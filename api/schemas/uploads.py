"""Checkpoints and datasets: the fields that come with the file, and the resources."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.schemas.common import Failure, FormFields, Name, Text, Time
from core.networks import catalogue
from core.spec import MAX_CLASSES, NetworkSpec
from store.tables import Checkpoint, Dataset


def _known(architecture: str) -> str:
    if catalogue.knows(architecture):
        return architecture
    raise PydanticCustomError(
        "unknown_architecture",
        "there is no architecture {name}. {advice}",
        {"name": repr(architecture[:100]), "advice": catalogue.advice(architecture)},
    )


def _commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """A JSON array, for names that hold commas, or a comma list."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return _commas(value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("it begins like a JSON array, but is not a valid one") from None


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(map(math.isfinite, values)):
        raise ValueError("every value must be a finite number")
    return values


def _comma_list(
    *examples: str, read: Callable[[Any], Any] = _commas
) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(read), WithJsonSchema({"type": "string", "examples": list(examples)})


_FLOATS, _SHAPE = _comma_list("0.5,0.5,0.5"), _comma_list("3,32,32")
_CLASSES = _comma_list("cat,dog", '["tench, Tinca tinca", "goldfish"]', read=_names)
Side = Annotated[int, Field(ge=1, le=8192)]
Floats = Annotated[tuple[float, ...], AfterValidator(_finite), _FLOATS[0], _FLOATS[1]]
Shape = Annotated[tuple[Side, Side, Side], _SHAPE[0], _SHAPE[1]]
Classes = Annotated[list[Name], Field(min_length=1, max_length=MAX_CLASSES), _CLASSES[0], _CLASSES[1]]


class CheckpointFields(FormFields):
    """`input_shape` is C,H,W; `mean` and `std` are of pixels scaled to [0, 1].

    `classes` are the names of the classes in the order of the network's outputs; they go into the file.
    """

    model_config = ConfigDict(extra="forbid")

    architecture: Annotated[Text, AfterValidator(_known)]
    name: Name | None = None
    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)] | None = None
    input_shape: Shape | None = None
    mean: Floats | None = None
    std: Floats | None = None
    classes: Classes | None = None

    def check(self) -> None:
        self.network()

    def network(self) -> NetworkSpec:
        return NetworkSpec.from_json(
            self.model_dump(exclude_none=True, include=set(NetworkSpec.__dataclass_fields__))
        )


class DatasetFields(FormFields):
    """`classes` are the names of an image folder's classes, in the order of their labels."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    classes: Classes | None = None


State = Literal["pending", "ready", "rejected"]


class UploadOut(BaseModel):
    id: str
    name: str | None
    state: State
    sha256: str
    bytes: int
    error: Failure | None
    inspection: dict[str, Any] | None
    created_at: Time
    updated_at: Time

    @classmethod
    def of(cls, row: Any) -> Self:
        """From the table's row of the same name."""
        raise NotImplementedError


class CheckpointOut(UploadOut):
    """What was sent; what inspection found in a ready file stands in `inspection`."""

    architecture: str
    num_classes: int | None
    input_shape: list[int] | None
    mean: list[float] | None
    std: list[float] | None
    classes: list[str] | None

    @classmethod
    def of(cls, row: Checkpoint) -> Self:
        sent = ("num_classes", "input_shape", "mean", "std", "classes")
        given: dict[str, Any] = {name: row.network.get(name) for name in sent}
        return cls(**_common(row), architecture=row.architecture, **given)


class DatasetOut(UploadOut):
    classes: list[str] | None

    @classmethod
    def of(cls, row: Dataset) -> Self:
        return cls(**_common(row), classes=row.classes)


def _common(row: Checkpoint | Dataset) -> dict[str, Any]:
    same = ("id", "name", "state", "bytes", "error", "inspection", "created_at", "updated_at")
    return {**{name: getattr(row, name) for name in same}, "sha256": row.blob_sha256}
