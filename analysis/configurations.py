"""Groups cells: those that differ only in their seed are one configuration, those that may be compared one section."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from analysis import schema
from analysis.load import ResultsError, rows

SOURCE = "source"
"""The method that adapts nothing, to which the others are compared."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of `cells`, without what is the same in the whole configuration."""

    cell: str
    sweep: str
    seed: int
    status: str
    reason: str
    accuracy: float | None
    n_samples: int
    seconds: float | None
    images_per_second: float | None
    peak_memory_mib: float | None
    trainable_parameters: int | None
    device: str

    @property
    def usable(self) -> bool:
        """Whether the cell finished with an accuracy that can be averaged."""
        return self.status == schema.DONE and self.accuracy is not None and math.isfinite(self.accuracy)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A method with its settings, run under one protocol.

    Attributes:
        fingerprint: hash of the protocol.
        method: test-time adaptation method.
        backbone: network and weights.
        settings: all settings of the method, as JSON with sorted keys.
        label: the method and those of its settings that vary in the results.
        cells: one finished cell a seed, by seed. Where a seed was run more than once (a method's code changes its
            cell ids), the newest.
        failed: cells that failed, by seed.
    """

    fingerprint: str
    method: str
    backbone: str
    settings: str
    label: str
    cells: tuple[Cell, ...]
    failed: tuple[Cell, ...]

    @property
    def accuracies(self) -> dict[int, float]:
        """Seed -> accuracy in [0, 1]."""
        return {cell.seed: cell.accuracy for cell in self.cells if cell.accuracy is not None}


@dataclass(frozen=True, slots=True)
class Section:
    """The configurations that were run under one protocol and may be compared.

    Attributes:
        fingerprint: hash of the protocol.
        heading: what sets this protocol apart from the others in the results.
        protocol: the protocol, flattened to text.
        domains: domains of the stream, in the order of the protocol.
        configurations: those with at least one finished cell, best mean accuracy first.
    """

    fingerprint: str
    heading: str
    protocol: Mapping[str, str]
    domains: tuple[str, ...]
    configurations: tuple[Configuration, ...]

    @property
    def sources(self) -> tuple[Configuration, ...]:
        """The configurations that adapt nothing; normally one, none if `source` was not run."""
        return tuple(each for each in self.configurations if each.method == SOURCE)

    @property
    def owners(self) -> dict[str, int]:
        """Cell id -> number of its configuration in `configurations`."""
        return {cell.cell: number for number, each in enumerate(self.configurations) for cell in each.cells}


_Key = tuple[str, str, str, str]


def configurations(con: duckdb.DuckDBPyConnection) -> list[Configuration]:
    """All configurations in the results, also those with failed cells only, by method and label.

    The preset is ignored: two presets that give the same settings are one configuration.
    """
    grouped: dict[_Key, list[Cell]] = {}
    written: dict[str, None] = {}  # names of settings in the order in which the cells give them
    seen: set[str] = set()
    for fingerprint, method, backbone, settings, *values in rows(
        con,
        """
        select fingerprint, method, backbone, settings, cell, sweep, seed, status, reason, accuracy, n_samples, seconds,
            images_per_second, peak_memory_mib, trainable_parameters, device
        from cells order by started_at, cell
        """,
    ):
        cell = Cell(*values)
        written |= dict.fromkeys(_mapping(settings))
        if cell.cell not in seen:  # A folder that was copied by hand shows a cell twice; `checks` reports it.
            seen.add(cell.cell)
            grouped.setdefault((fingerprint, method, backbone, _canonical(settings)), []).append(cell)
    labels = _labels(grouped, list(written))
    made = [
        Configuration(
            fingerprint=fingerprint,
            method=method,
            backbone=backbone,
            settings=settings,
            label=labels[method, settings],
            # Later cells replace earlier ones of the same seed.
            cells=_by_seed({cell.seed: cell for cell in cells if cell.usable}.values()),
            failed=_by_seed(cell for cell in cells if cell.status == schema.FAILED),
        )
        for (fingerprint, method, backbone, settings), cells in grouped.items()
    ]
    return sorted(made, key=lambda each: (each.method, each.label, each.fingerprint))


def sections(con: duckdb.DuckDBPyConnection) -> list[Section]:
    """The comparable groups that have a finished cell, by heading."""
    grouped: dict[str, list[Configuration]] = {}
    for each in configurations(con):
        if each.cells:
            grouped.setdefault(each.fingerprint, []).append(each)
    protocols = {key: value for key, value in read_protocols(con).items() if key in grouped}
    headings = _headings(protocols)
    made = [
        Section(
            fingerprint=fingerprint,
            heading=headings[fingerprint],
            protocol=flattened(protocols[fingerprint]),
            domains=_domains(protocols[fingerprint]),
            configurations=tuple(sorted(members, key=lambda each: (-_mean_accuracy(each), each.label))),
        )
        for fingerprint, members in grouped.items()
    ]
    return sorted(made, key=lambda each: (each.heading, each.fingerprint))


def read_protocols(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Fingerprint -> protocol, for all cells."""
    found = rows(con, "select fingerprint, min(protocol) from cells group by fingerprint order by fingerprint")
    return {fingerprint: _mapping(protocol) for fingerprint, protocol in found}


def flattened(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as `outer.inner`, and every value as text."""
    flat: dict[str, str] = {}
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(_text(each) for each in value)
        else:
            flat[prefix + name] = _text(value)
    return flat


def _mean_accuracy(configuration: Configuration) -> float:
    return statistics.fmean(configuration.accuracies.values())


def _by_seed(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    return tuple(sorted(cells, key=lambda cell: (cell.seed, cell.cell)))


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ResultsError(
            f"settings or protocol {text[:80]!r} in a cell.parquet is not a JSON object: delete that cell's folder "
            "and run the sweep again"
        )
    return value


def _canonical(settings: str) -> str:
    return json.dumps(_mapping(settings), sort_keys=True)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def _labels(keys: Iterable[_Key], order: Sequence[str]) -> dict[tuple[str, str], str]:
    """(method, settings) -> method and the settings that vary between configurations of that method.

    In an ablation, the full method is called by its name alone, and each other by the one setting that sets it apart.
    """
    by_method: dict[str, set[str]] = {}
    for _, method, _, settings in keys:
        by_method.setdefault(method, set()).add(settings)
    labels: dict[tuple[str, str], str] = {}
    for method, texts in by_method.items():
        parsed = {text: json.loads(text) for text in texts}
        words = {name: _value_words(name, list(parsed.values())) for name in _varying(list(parsed.values()), order)}
        centre = _centre(list(parsed.values()), list(words))
        for text, settings in parsed.items():
            told = [name for name in words if name in settings and (centre is None or settings[name] != centre[name])]
            parts = [f"{name}={words[name][json.dumps(settings[name])]}" for name in told]
            labels[method, text] = " ".join([method, *parts])
    return labels


def _varying(settings: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[str]:
    """Names, in the order given, whose value or presence is not the same in all."""
    return [name for name in order if len({json.dumps(each[name]) if name in each else None for each in settings}) > 1]


def _centre(settings: Sequence[Mapping[str, Any]], varying: Sequence[str]) -> Mapping[str, Any] | None:
    """The settings that all others differ from in at most one of three or more; None if there are none."""
    if len(varying) < 3:
        return None
    for centre in settings:
        if all(sum(each.get(name) != centre.get(name) for name in varying) <= 1 for each in settings):
            return centre
    return None


def _value_words(name: str, settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """JSON value -> how a label shows it: short, but such that different values look different."""
    values = {json.dumps(each[name]): each[name] for each in settings if name in each}
    short = {key: f"{value:.4g}" if isinstance(value, float) else _text(value) for key, value in values.items()}
    return short if len(set(short.values())) == len(short) else {key: key for key in values}


def _domains(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    domains = protocol.get("domains")
    return tuple(str(each) for each in domains) if isinstance(domains, list) else ()


def _headings(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What differs between the protocols; for a single protocol, its benchmark and stream."""
    flat = {fingerprint: flattened(protocol) for fingerprint, protocol in protocols.items()}
    names = list(dict.fromkeys(name for each in flat.values() for name in each))
    if len(flat) == 1:
        usual: tuple[str, ...] = ("benchmark", "stream", "severity")
        differing = [name for name in usual if name in names]
    else:
        differing = [name for name in names if len({each.get(name) for each in flat.values()}) > 1]
        # The hash of an order says nothing to a reader if the order has a name, and that differs too.
        told = [name for name in differing if not name.startswith("stream_order")]
        differing = told or differing
    return {
        fingerprint: ", ".join(f"{_words(name)} {_short(each.get(name, 'not given'))}" for name in differing)
        or f"protocol {fingerprint}"
        for fingerprint, each in flat.items()
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: str) -> str:
    """A list of many names by its length and ends."""
    parts = value.split(", ")
    return value if len(parts) <= 3 else f"{parts[0]} … {parts[-1]} ({len(parts)})"
