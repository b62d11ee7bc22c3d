"""Shapes that several calls share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, StringConstraints
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")


def _storable(text: str) -> str:
    if not is_storable(text):
        raise PydanticCustomError("unstorable_text", "text must hold no null characters and be valid Unicode")
    return text


def is_storable(text: str) -> bool:
    """PostgreSQL refuses null characters; lone surrogates cannot be written as UTF-8."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_unstorable(value: Any) -> Any:
    """For a whole request, keys included, before anything repeats them in a message."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            _storable(item)
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            stack += item
    return value


# Constraints come before the function: behind it they would be missing in the OpenAPI document.
Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_storable)]
Label = Annotated[str, StringConstraints(max_length=255), AfterValidator(_storable)]
Time = AwareDatetime


class FormFields(BaseModel):
    """What may come with a file, in a form or in the query."""

    def check(self) -> None:
        """Whether the fields fit each other. Raises pydantic.ValidationError."""


Fields = TypeVar("Fields", bound=FormFields)


class Page(BaseModel, Generic[Item]):
    """`next` goes into `after` of the call for the next page; null on the last one."""

    items: list[Item]
    next: str | None = None


class Failure(BaseModel):
    """Why a job failed or an upload was rejected."""

    code: str
    detail: str
    retryable: bool = False
    field: str | None = None
