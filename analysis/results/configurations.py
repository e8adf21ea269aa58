"""Groups cells. Cells that differ only in their seed are one configuration; those that may be compared, one section."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from analysis import schema
from analysis.results.load import IN_TABLES, rows
from analysis.results.needs import Needs, read_needs
from analysis.results.protocols import (
    domains_of,
    flattened,
    heading_order,
    headings,
    mapping,
    read_protocols,
    scored_logits,
    up_to_scoring,
)
from analysis.texts import value_text
from analysis.vocabulary import DEFAULT, ORACLE, SOURCE


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of `cells`, without what is the same in the whole configuration."""

    cell: str
    sweep: str
    seed: int
    status: str
    reason: str
    accuracy: float | None
    """The score: accuracy, or what `metric` says."""
    n_samples: int
    seconds: float | None
    images_per_second: float | None
    peak_memory_mib: float | None
    trainable_parameters: int | None
    device: str
    skipped_images: int = 0
    metric: str = schema.ACCURACY

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
        needs: what the method needs beyond the stream; None if the cells are of a version that did not record it.
    """

    fingerprint: str
    method: str
    backbone: str
    settings: str
    label: str
    cells: tuple[Cell, ...]
    failed: tuple[Cell, ...]
    needs: Needs = None

    @property
    def skipped_images(self) -> int:
        """Samples that the cells left out because their images are damaged."""
        return sum(cell.skipped_images for cell in self.cells)

    @property
    def is_reference(self) -> bool:
        """Whether it is what others are compared with: the network as it is, on one view of each image.

        With several views, which segmentation has, it is a row of its own: the control of methods that use them.
        """
        return self.method == SOURCE and json.loads(self.settings).get("views", 1) == 1

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
        configurations: those with at least one finished cell, best mean accuracy first. `source` may have been run
            under another protocol, see `sections`.
        scored: which logits are scored.
        needs: what methods need beyond the stream. They are those of all sections, so that all tables explain the same.
    """

    fingerprint: str
    heading: str
    protocol: Mapping[str, str]
    domains: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    scored: str
    needs: tuple[Needs, ...]

    @property
    def sources(self) -> tuple[Configuration, ...]:
        """The configurations that others are compared with; normally one, none if `source` was not run."""
        return tuple(each for each in self.configurations if each.is_reference)

    @property
    def metric(self) -> str:
        """What the scores are, a key of `schema.METRICS`: a protocol has one benchmark, and so one task."""
        return next((cell.metric for each in self.configurations for cell in each.cells), schema.ACCURACY)

    @property
    def lender(self) -> str:
        """The fingerprint that the source cells were run under, if it is not this one; else empty."""
        return next((each.fingerprint for each in self.sources if each.fingerprint != self.fingerprint), "")

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
    needs: dict[_Key, Needs] = {}
    for fingerprint, method, backbone, settings, needed, *values in rows(
        con,
        f"""
        select fingerprint, method, backbone, settings, needs, cell, sweep, seed, status, reason, score, n_samples,
            seconds, images_per_second, peak_memory_mib, trainable_parameters, device,
            coalesce(skipped_images, 0), metric
        from cells where {IN_TABLES} order by started_at, cell
        """,
    ):
        cell = Cell(*values)
        written |= dict.fromkeys(mapping(settings))
        key = (fingerprint, method, backbone, _canonical(settings))
        if cell.cell not in seen:  # A folder that was copied by hand shows a cell twice; `checks` reports it.
            seen.add(cell.cell)
            grouped.setdefault(key, []).append(cell)
        if needed is not None:
            needs[key] = read_needs(needed)
    tuned = _tuned(con, grouped)
    # What was chosen is named by how, so that its settings set the others apart no further.
    labels = _labels([key for key in grouped if key not in tuned] or grouped, list(written))
    labels = _labels(grouped, list(written)) | labels
    taken: dict[tuple[str, str, str, str], list[_Key]] = {}
    for key, words in tuned.items():
        taken.setdefault((*key[:3], words), []).append(key)
    made = [
        Configuration(
            fingerprint=fingerprint,
            method=method,
            backbone=backbone,
            settings=settings,
            label=_label(key, tuned, labels, taken),
            # Later cells replace earlier ones of the same seed.
            cells=_by_seed({cell.seed: cell for cell in cells if cell.usable}.values()),
            failed=_by_seed(cell for cell in cells if cell.status == schema.FAILED),
            needs=needs.get((fingerprint, method, backbone, settings)),
        )
        for key, cells in grouped.items()
        for fingerprint, method, backbone, settings in [key]
    ]
    return sorted(made, key=lambda each: (each.method, each.label, each.fingerprint))


def _tuned(con: duckdb.DuckDBPyConnection, grouped: Mapping[_Key, Sequence[Cell]]) -> dict[_Key, str]:
    """The configurations that a search chose -> how, in words."""
    owners = {cell.cell: key for key, cells in grouped.items() for cell in cells}
    found: dict[_Key, str] = {}
    kept = set[_Key]()
    for rule, trials, cells in rows(
        con, "select rule, trials, cells from selections where current and rule <> ? order by study", [schema.CANDIDATE]
    ):
        keys = dict.fromkeys(owners[cell] for cell in cells if cell in owners)
        if rule == DEFAULT:
            kept.update(keys)
        else:
            on = f"({rule}, {trials} trials)" if rule != ORACLE else "on the reported stream (oracle)"
            found |= dict.fromkeys(keys, f"tuned {on}")
    return {key: f"default = {words}" if key in kept else words for key, words in found.items()}


def _label(
    key: _Key,
    tuned: Mapping[_Key, str],
    labels: Mapping[tuple[str, str], str],
    taken: Mapping[tuple[str, str, str, str], Sequence[_Key]],
) -> str:
    _, method, _, settings = key
    if key not in tuned:
        return labels[method, settings]
    alone = len(taken[(*key[:3], tuned[key])]) == 1
    return f"{method if alone else labels[method, settings]}, {tuned[key]}"


def sections(con: duckdb.DuckDBPyConnection) -> list[Section]:
    """The comparable groups that have a finished cell, by heading.

    Two protocols may differ only in which logits are scored. `source` has the same logits under both, so a group
    without `source` borrows it from the other. A group that only lends its `source` makes no section. Nothing else
    crosses protocols.
    """
    everything = configurations(con)
    grouped: dict[str, list[Configuration]] = {}
    for each in everything:
        if each.cells:
            grouped.setdefault(each.fingerprint, []).append(each)
    protocols = {key: value for key, value in read_protocols(con).items() if key in grouped}
    lenders = _lenders(grouped, protocols)
    borrowed = {key: [each for each in grouped[lender] if each.method == SOURCE] for key, lender in lenders.items()}
    shown = {
        key: [*members, *borrowed.get(key, [])]
        for key, members in grouped.items()
        if key not in lenders.values() or any(each.method != SOURCE for each in members)
    }
    names = headings({key: protocols[key] for key in shown})
    made = [
        Section(
            fingerprint=fingerprint,
            heading=names[fingerprint],
            protocol=flattened(protocols[fingerprint]),
            domains=domains_of(protocols[fingerprint]),
            configurations=tuple(sorted(members, key=lambda each: (-_mean_accuracy(each), each.label))),
            scored=scored_logits(protocols[fingerprint]),
            needs=tuple(dict.fromkeys(each.needs for each in everything)),
        )
        for fingerprint, members in shown.items()
    ]
    return sorted(made, key=lambda each: (heading_order(each.heading), each.fingerprint))


def _lenders(
    grouped: Mapping[str, Sequence[Configuration]], protocols: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Who borrows `source` from whom: fingerprint of the group without it -> fingerprint of the group that lends it."""
    with_source = {key for key, members in grouped.items() if any(each.method == SOURCE for each in members)}
    owners = {up_to_scoring(protocols[key]): key for key in sorted(with_source, reverse=True)}
    return {
        key: owner
        for key in grouped
        if key not in with_source
        and (owner := owners.get(up_to_scoring(protocols[key])))
        and scored_logits(protocols[key]) != scored_logits(protocols[owner])
    }


def _mean_accuracy(configuration: Configuration) -> float:
    return statistics.fmean(configuration.accuracies.values())


def _by_seed(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    return tuple(sorted(cells, key=lambda cell: (cell.seed, cell.cell)))


def _canonical(settings: str) -> str:
    return json.dumps(mapping(settings), sort_keys=True)


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
    short = {key: f"{value:.4g}" if isinstance(value, float) else value_text(value) for key, value in values.items()}
    return short if len(set(short.values())) == len(short) else {key: key for key in values}
