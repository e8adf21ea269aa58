"""Which combinations a sweep's `exclude` list leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tta_core.errors import InputError
from tta_core.run.config import RunConfig


class Exclusions:
    """The `exclude` list of a sweep. An entry matches where all its values do; a list of values matches any of them."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._entries = entries
        self._used = [False] * len(entries)
        self._as_cells: dict[tuple[Any, ...], Any] = {}

    def take_out(self, point: Mapping[str, Any], config: RunConfig | None) -> bool:
        """Whether an entry matches a combination.

        Args:
            point: what the sweep says, with the seed.
            config: the cell that it makes; None where it makes none: what is left out need not be allowed.
        """
        matching = [
            number
            for number, entry in enumerate(self._entries)
            if all(self._matches(key, value, point, config) for key, value in entry.items())
        ]
        for number in matching:
            self._used[number] = True
        return bool(matching)

    def check_used(self) -> None:
        """Raises `InputError` for an entry that matched nothing: there is a mistake in it."""
        for entry, used in zip(self._entries, self._used, strict=True):
            if not used:
                raise InputError(
                    f"exclude: the entry {dict(entry)!r} matches no cell, so it leaves out nothing: correct its "
                    "values, or take it out of the list"
                )

    def _matches(self, key: str, given: Any, point: Mapping[str, Any], config: RunConfig | None) -> bool:
        values = [given, *given] if isinstance(given, list) else [given]
        if key in point and any(_same(point[key], value) for value in values):
            return True
        if config is None:
            return False
        if "." in key and key.partition(".")[0] != config.method:
            return False
        found = _value(config, key)
        return any(_same(found, value) or _same(found, self._as_cell(key, value, config)) for value in values)

    def _as_cell(self, key: str, given: Any, config: RunConfig) -> Any:
        """What a cell like that one makes of a value; the value itself if it does not take it."""
        like = {name: getattr(config, name) for name in ("method", "preset", "backbone", "benchmark", "stream")}
        memo = (key, repr(given), *like.values())
        if memo not in self._as_cells:
            setting = key.partition(".")[2]
            try:
                changed = {"settings": {setting: given}} if setting else {key: given}
                self._as_cells[memo] = _value(RunConfig.from_values(like | changed), key)
            except InputError:
                self._as_cells[memo] = given
        return self._as_cells[memo]


def cannot_match(entry: Mapping[str, Any], key: str, values: Sequence[Any]) -> bool:
    """Whether an entry of `exclude` can match nothing once a key has only some values.

    Args:
        entry: the entry.
        key: a key of cells, or `seed`.
        values: all that it has in the sweep.
    """
    if key == "method" and any("." in name and name.partition(".")[0] not in values for name in entry):
        return True
    if key not in entry:
        return False
    given = entry[key]
    wanted = [given, *given] if isinstance(given, list) else [given]
    return not any(_same(value, other) for value in values for other in wanted)


def _value(config: RunConfig, key: str) -> Any:
    setting = key.partition(".")[2]
    return config.settings[setting] if setting else getattr(config, key)


def _same(one: Any, other: Any) -> bool:
    """Equality that tells true from 1, and takes lists and tuples for the same."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    one, other = (list(value) if isinstance(value, tuple) else value for value in (one, other))
    return bool(one == other)
