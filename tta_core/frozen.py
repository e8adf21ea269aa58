"""Data models that cannot be changed, filled with one message for all that is wrong. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from tta_core.errors import InputError, closest_match, shown

Model = TypeVar("Model", bound=BaseModel)

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of things, as a column of 32 bits holds it."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""What a signed column of 64 bits holds."""


def _take_lists_and_tuples(schema: Any) -> None:
    """Lists and tuples stand for each other, as YAML and JSON have no tuples; what is in them is looked at as ever."""
    if isinstance(schema, dict):
        if schema.get("type") in ("tuple", "list"):
            schema["strict"] = False
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _take_lists_and_tuples(part)


class Frozen(BaseModel):
    """A data model that cannot be changed and refuses fields that it does not know.

    Values have the types that the fields state: true is no number, text is none, 2.0 is no integer. Infinity and NaN
    are not allowed. An integer may stand for any number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _take_lists_and_tuples(schema)
        return schema


def validated(model: type[Model], values: dict[str, Any], *, where: str) -> Model:
    """Builds `model` from `values`, with one message for everything that is wrong.

    Args:
        model: the data model.
        values: field values as read from YAML.
        where: what the values belong to, to start the message with.

    Raises:
        InputError: naming each wrong field with what was given, what is allowed and the closest match.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {told(error, model, values)}") from None


def told(error: ValidationError, model: type[BaseModel], values: Any) -> str:
    """All that is wrong with the values of a model, for people."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    unknown = [str(item["loc"][0]) for item in items if _is_unknown_key(item)]
    problems = _problems(values, [item for item in items if not _is_unknown_key(item)])
    if unknown:
        problems.append(_unknown_keys(unknown, sorted(model.model_fields)))
    return "; ".join(problems)


def _is_unknown_key(item: dict[str, Any]) -> bool:
    return bool(item["type"] == "extra_forbidden" and len(item["loc"]) == 1)


def _unknown_keys(names: Sequence[str], allowed: Sequence[str]) -> str:
    named = []
    for name in names:
        match = closest_match(name, allowed)
        named.append(f"{name!r}, did you mean {match!r}?" if match else f"{name!r},")
    return f"unknown key{'s' if len(names) > 1 else ''} {' '.join(named)} allowed: {', '.join(allowed)}"


def _problems(values: Any, items: Sequence[dict[str, Any]]) -> list[str]:
    """A text for each place where something is wrong. A place that may have several types has a message for each."""
    found: dict[str, str] = {}
    for item in items:
        place = _place(values, item["loc"])
        if item["type"] == "missing":
            name = ".".join([*place, str(item["loc"][-1])])
            found[name] = f"{name!r} is missing: give it"
            continue
        message = re.sub(" or instance of .*", "", item["msg"].removeprefix("Value error, "))
        name = ".".join(place)
        if not name:
            found[name] = f"{found[name]}; {message}" if name in found else message
        elif name in found:
            found[name] += f", or {message.removeprefix('Input should be ')}"
        else:
            found[name] = f"{name} = {shown(item['input'])} is not allowed: {message[0].lower()}{message[1:]}"
    return list(found.values())


def _place(values: Any, location: Sequence[str | int]) -> list[str]:
    """Keys and numbers that lead into the values. Pydantic has its names of types among them."""
    place = []
    for part in location:
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)):
            values = values[part]
            place.append(str(part))
    return place
