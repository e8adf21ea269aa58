"""Where a study looks: the ranges of `search.space`, read with the types of the settings. Imports no optuna."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import Field

from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Frozen, validated
from tta_core.methods.spec import Choice, MethodSpec, SearchSpace

KEYS = ("low", "high", "log", "step", "values", "when")

PRESET = "preset"
"""In a space: the preset that a method's other settings come from."""


class Dimension(Frozen):
    """Where a study looks for one setting.

    Attributes:
        name: the setting.
        kind: `float` and `int` have `low` and `high`, `choice` has `values`.
        log: whether the logarithm is spread evenly.
        step: distance of neighbouring values; None for any value, 1 of integers.
        when: other settings -> values of these with which this setting is looked for at all.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    values: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether the setting matters beside others; `settings` has all that were chosen before it."""
        return all(name in settings and _among(settings[name], values) for name, values in self.when.items())

    def contains(self, value: Any) -> bool:
        """Whether the setting may have a value here."""
        if self.kind == "choice":
            return _among(value, self.values)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        on_step = (
            self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9
        )
        return bool(self.low <= value <= self.high and on_step)

    def extended(self, value: Any) -> Dimension | None:
        """The range with a value put in; None if it is none that a range can take."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind == "choice" or not number or self.step is not None or (self.log and value <= 0):
            return None
        assert self.low is not None
        assert self.high is not None
        return self.model_copy(update={"low": min(self.low, value), "high": max(self.high, value)})

    def grid(self) -> tuple[Any, ...] | None:
        """All values, in order; None of a range without steps."""
        if self.kind == "choice":
            return self.values
        assert self.low is not None
        assert self.high is not None
        step = self.step or (1 if self.kind == "int" else None)
        if step is None:
            return None
        return tuple(self.low + step * number for number in range(int((self.high - self.low) / step + 1e-9) + 1))

    def text(self) -> str:
        """For people."""
        if self.kind == "choice":
            words = ", ".join(str(value) for value in self.values)
        else:
            words = f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")
            words += f" by {self.step:g}" if self.step else ""
        when = " and ".join(f"{name} is {' or '.join(map(str, values))}" for name, values in self.when.items())
        return f"{self.name} {words}" + (f" when {when}" if when else "")


def read_dimensions(
    given: Mapping[str, Any], spec: MethodSpec, fixed: Mapping[str, Any], *, where: str
) -> tuple[Dimension, ...]:
    """Reads the ranges of one method.

    Args:
        given: setting -> what the sweep says of it.
        spec: the method.
        fixed: the settings that the cells have otherwise.
        where: what to start messages with.

    Returns:
        The ranges, those that others depend on first.

    Raises:
        InputError: for what is no range, does not fit the setting, or is never looked at.
    """
    found: dict[str, Dimension] = {}
    for name, value in given.items():
        key = f"{where}: {spec.name}.{name}"
        if name == PRESET:
            found[name] = _presets(value, spec, key)
            continue
        if name not in spec.settings.model_fields:
            raise unknown_name(f"setting of {spec.name}", name, spec.settings.model_fields, f"({where})")
        found[name] = _dimension(name, value, spec, fixed, key)
    found = {
        name: found[name]
        if name == PRESET
        else _with_conditions(found[name], found, spec, fixed, f"{where}: {spec.name}.{name}")
        for name in found
    }
    try:
        order = list(TopologicalSorter({name: each.when.keys() for name, each in found.items()}).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InputError(f"{where}: the conditions `when` go in a circle: {circle}; take one of them out") from None
    return tuple(found[name] for name in order)


def _presets(given: Any, spec: MethodSpec, key: str) -> Dimension:
    names = list(spec.preset_names()) if given == "spec" else given
    if not isinstance(names, list | tuple) or not names:
        raise InputError(f"{key}: {given!r}: give spec for all presets, or a list of their names")
    for name in names:
        if name not in spec.preset_names():
            raise unknown_name(f"preset of {spec.name}", name, spec.preset_names(), f"({key})")
    if len(set(names)) < len(names):
        raise InputError(f"{key}: a preset is there twice in {list(names)}: give each once")
    return Dimension(name=PRESET, kind="choice", values=tuple(names))


def _dimension(name: str, given: Any, spec: MethodSpec, fixed: Mapping[str, Any], key: str) -> Dimension:
    if given == "spec":
        if name not in spec.search:
            raise InputError(
                f"{key}: spec, but {spec.name} has no range for it. It has them for: "
                f"{', '.join(spec.search) or 'nothing'}; give a list, or low and high"
            )
        given = _as_given(spec.search[name])
    if isinstance(given, list | tuple):
        given = {"values": given}
    if not isinstance(given, Mapping):
        raise InputError(f"{key}: {given!r} is no range: give spec, a list of values, or a mapping with low and high")
    for word in given:
        if word not in KEYS:
            raise unknown_name("key of a range", word, KEYS, f"({key})")
    kind = _kind_of(spec, name)
    when = _read_when(given.get("when", {}), spec, key)
    if "values" in given:
        if not isinstance(given["values"], list | tuple) or not given["values"] or len(given) - ("when" in given) > 1:
            raise InputError(f"{key}: give values as a list with something in it, without low, high, log or step")
        values = tuple(_value(spec, fixed, when, name, value, key) for value in given["values"])
        if len(set(map(repr, values))) < len(values):
            raise InputError(f"{key}: a value is there twice in {list(values)}: give each once")
        return Dimension(name=name, kind="choice", values=values, when=when)
    if kind == "other":
        raise InputError(f"{key}: it is no number, so a range means nothing: give a list of its values")
    return _numeric(name, kind, given, spec, fixed, key, when)


def _numeric(
    name: str,
    kind: Literal["float", "int"],
    given: Mapping[str, Any],
    spec: MethodSpec,
    fixed: Mapping[str, Any],
    key: str,
    when: dict[str, tuple[Any, ...]],
) -> Dimension:
    if "low" not in given or "high" not in given:
        raise InputError(f"{key}: a range has low and high, here is {sorted(given)}: give both, or a list of values")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for word, number in (("low", low), ("high", high), ("step", step)):
        if not (word == "step" and step is None) and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise InputError(f"{key}: {word} = {number!r} is no number: give one")
        if kind == "int" and isinstance(number, float) and not number.is_integer():
            raise InputError(f"{key}: {word} = {number} is no whole number, and {name} is one: give whole numbers")
    if not isinstance(log, bool):
        raise InputError(f"{key}: log = {log!r}: give true or false")
    if low >= high:
        raise InputError(f"{key}: low = {low} is not below high = {high}: give the smaller one as low")
    if log and low <= 0:
        raise InputError(f"{key}: low = {low} has no logarithm: give a low above 0, or log: false")
    if step is not None and (log or not 0 < step <= high - low):
        raise InputError(f"{key}: step = {step}: give one above 0 that fits between low and high, and no log with it")
    as_kind = float if kind == "float" else int
    low, high = (_value(spec, fixed, when, name, as_kind(end), key) for end in (low, high))
    return Dimension(
        name=name, kind=kind, low=low, high=high, log=log, step=None if step is None else as_kind(step), when=when
    )


def _with_conditions(
    each: Dimension, found: Mapping[str, Dimension], spec: MethodSpec, fixed: Mapping[str, Any], key: str
) -> Dimension:
    """A range with the conditions that others can change; raises `InputError` if one can never hold."""
    kept: dict[str, tuple[Any, ...]] = {}
    for name, values in each.when.items():
        if name in found:
            possible = tuple(value for value in values if found[name].contains(value))
            if not possible:
                raise InputError(
                    f"{key}: when names {spec.name}.{name}, which is looked for in {found[name].text()}: the range is "
                    "never used; give one of its values"
                )
            kept[name] = possible
        elif not _among(fixed[name], values):
            raise InputError(
                f"{key}: when names {spec.name}.{name}, which is fixed to {fixed[name]!r}: the range is never used; "
                f"take it out, or put {spec.name}.{name} into the space"
            )
    return each.model_copy(update={"when": kept})


def _read_when(given: Any, spec: MethodSpec, key: str) -> dict[str, tuple[Any, ...]]:
    if not isinstance(given, Mapping):
        raise InputError(f"{key}: when = {given!r}: give a mapping of {spec.name}.SETTING to a value or a list")
    found = {}
    for name, values in given.items():
        method, _, setting = str(name).partition(".")
        if method != spec.name or setting not in spec.settings.model_fields:
            raise unknown_name(
                "setting in when", name, [f"{spec.name}.{field}" for field in spec.settings.model_fields], f"({key})"
            )
        found[setting] = tuple(values) if isinstance(values, list | tuple) else (values,)
    return found


def _value(
    spec: MethodSpec, fixed: Mapping[str, Any], when: Mapping[str, tuple[Any, ...]], name: str, value: Any, key: str
) -> Any:
    """A value as the settings read it; refused if neither the cell's settings nor any preset can have it."""
    problem: InputError | None = None
    condition = {parent: values[0] for parent, values in when.items()}
    for others in (fixed, {}, *spec.presets.values()):
        try:
            read = validated(spec.settings, {**others, **condition, name: value}, where=key)
        except InputError as error:
            problem = problem or error
        else:
            return read.model_dump(mode="json")[name]
    assert problem is not None
    raise problem


def _as_given(space: SearchSpace) -> dict[str, Any]:
    if isinstance(space, Choice):
        return {"values": list(space.values)}
    return {"low": space.low, "high": space.high, "log": space.log}


def _kind_of(spec: MethodSpec, name: str) -> Literal["float", "int", "other"]:
    found = set(_types(spec.settings.model_fields[name].annotation)) - {type(None)}
    if found == {int}:
        return "int"
    return "float" if found and found <= {int, float} else "other"


def _types(annotation: Any) -> Sequence[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _types(part)]
    return [annotation]


def _among(value: Any, values: Sequence[Any]) -> bool:
    """Whether a value is one of several; true is no 1, lists and tuples are the same."""

    def plain(one: Any) -> Any:
        return list(one) if isinstance(one, tuple) else one

    return any(isinstance(value, bool) == isinstance(one, bool) and plain(value) == plain(one) for one in values)
