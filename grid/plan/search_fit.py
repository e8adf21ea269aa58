"""Whether `search:` fits the sweep that it stands in. Imports no optuna."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grid.plan.search import EACH, Search
from grid.plan.space import PRESET
from grid.plan.sweep import CELL_FIELDS, Sweep, check_cell_key
from tta_core.data.benchmarks import benchmark_spec
from tta_core.errors import InputError
from tta_core.methods.registry import method_spec
from tta_core.streams.choice import DEFAULT_BENCHMARK


def axes(sweep: Sweep) -> list[str]:
    """The keys of a sweep that may vary, the method first."""
    sections: Iterator[Mapping[str, Any]] = iter([sweep.grid, *sweep.zip, *sweep.variants])
    return list(dict.fromkeys(["method", *(key for section in sections for key in section)]))


def study_keys(search: Search, sweep: Sweep, *, where: str) -> list[str]:
    """The axes by which studies are told apart.

    Raises:
        InputError: if `per` names something else, or not the method.
    """
    varied = axes(sweep)
    if search.per is None:
        return varied
    for key in search.per:
        if key not in varied:
            raise InputError(
                f"{where}: per: {key!r} is no axis of this sweep: its axes are {', '.join(varied)}; leave it out, or "
                "make it one"
            )
    if "method" not in search.per:
        raise InputError(f"{where}: per = {search.per}: methods share no settings; put method into it")
    return list(dict.fromkeys(search.per))


def given_spaces(search: Search, methods: Sequence[str], sweep: Sweep, *, where: str) -> dict[str, dict[str, Any]]:
    """Method -> setting -> what the sweep says of its range, for the methods that are searched.

    Raises:
        InputError: if a key is no setting of a method of the sweep, varies already, or nothing is left to search.
    """
    varied = axes(sweep)
    if search.space is None:
        # What the sweep varies itself is not searched.
        task = benchmark_spec(str(sweep.base.get("benchmark", DEFAULT_BENCHMARK))).task
        free = {
            name: [key for key in method_spec(name, task).search if f"{name}.{key}" not in varied] for name in methods
        }
        found = {name: dict.fromkeys(settings, "spec") for name, settings in free.items() if settings}
    else:
        found = {}
        for key, value in search.space.items():
            method, _, setting = str(key).partition(".")
            if str(key) in (*CELL_FIELDS, "seed"):
                raise InputError(
                    f"{where}: space: {key} changes the protocol, and numbers under two protocols cannot be compared: "
                    "make it an axis of the grid, with a study each"
                )
            if setting != PRESET:
                check_cell_key(str(key), where=f"{where}: space")
            if method not in methods:
                raise InputError(
                    f"{where}: space: {key}, but {method} is not in this sweep: its methods are {', '.join(methods)}; "
                    "add it to the grid, or leave the range out"
                )
            found.setdefault(method, {})[setting] = value
    for name, space in found.items():
        for setting in space:
            if f"{name}.{setting}" in varied:
                raise InputError(
                    f"{where}: {name}.{setting} is searched, and it is an axis of the sweep: leave it out of one of "
                    "the two (search.space names what is searched)"
                )
    if not found:
        raise InputError(
            f"{where}: there is nothing to search: {', '.join(methods)} have no ranges of their own; add a method that "
            "has, or give ranges in space"
        )
    return found


def check_select(search: Search, *, where: str) -> None:
    """Raises `InputError` if `select` has what is no field of the protocol."""
    for key, value in search.select.items():
        if key in ("method", "preset", "settings", "seed") or "." in key:
            raise InputError(
                f"{where}: select: {key!r} is not of the protocol: give fields of a cell such as domains, severity or "
                "samples_per_domain; seeds have a list of their own"
            )
        check_cell_key(key, where=f"{where}: select")
        if value == "match" and key != "samples_per_domain":
            raise InputError(f"{where}: select: {key} = 'match': only samples_per_domain can match; give a value")


def check_trials(search: Search, spaces: Mapping[str, Any], *, where: str) -> None:
    """Raises `InputError` if `trials` by method and what is searched differ."""
    if not isinstance(search.trials, dict):
        return
    if missing := [name for name in spaces if name not in search.trials and EACH not in search.trials]:
        raise InputError(
            f"{where}: trials says nothing of {', '.join(missing)}: give a number for each, or one for all others as "
            f"{EACH}"
        )
    if unknown := [name for name in search.trials if name not in spaces and name != EACH]:
        raise InputError(
            f"{where}: trials names {', '.join(unknown)}, of which nothing is searched: searched are "
            f"{', '.join(spaces)}; leave it out"
        )


def check_first(search: Search, methods: Sequence[str], *, where: str) -> None:
    """Raises `InputError` if an entry of `first` has what is no setting of a method of the sweep, or nothing."""
    for number, entry in enumerate(search.first if isinstance(search.first, list) else ()):
        for key in entry or {"": None}:
            if "." not in key or key.partition(".")[0] not in methods:
                has = f"has {key!r}" if key else "is empty"
                raise InputError(
                    f"{where}: first: entry {number} {has}: give method.setting: value, of the methods "
                    f"{', '.join(methods)}, or leave it out"
                )


def check_seeds(search: Search, sweep: Sweep, *, where: str) -> None:
    """Raises `InputError` if seeds that choose are reported too."""
    if not search.oracle and (shared := sorted(set(search.seeds) & set(sweep.seeds))):
        raise InputError(f"{where}: seeds {shared} are also reported: give others, or oracle: true")
