"""What the cells of a section say together: means over seeds, differences to `source`, domains, experts, cost.

Accuracies are in [0, 1]. Cells of one fingerprint and seed saw the same samples in the same order, so differences are
taken seed by seed.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import duckdb

from analysis.aggregate.estimates import Estimate, effective_number, estimate
from analysis.results.configurations import Configuration, Section
from analysis.results.load import rows
from analysis.results.scores import scores
from analysis.vocabulary import Quantity


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of the leaderboard.

    Attributes:
        configuration: what was run.
        rank: 1 for the best mean accuracy; equal means share a rank.
        accuracy: mean over seeds.
        lowest, highest: worst and best seed.
        difference: paired difference to `source`; None for `source` itself and where no seed is shared with it.
    """

    configuration: Configuration
    rank: int
    accuracy: Estimate
    lowest: float
    highest: float
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class DomainAccuracies:
    """Accuracy in each domain, mean over seeds.

    Attributes:
        domains: the columns.
        values: one row a configuration of the section; None where it has no sample of a domain.
        differences: the same for the differences to `source`, seed by seed; None if no seed is shared with it.
    """

    domains: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    differences: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class ExpertUsage:
    """How a configuration used its experts, mean over seeds.

    Experts are exchangeable: number 3 of one seed has nothing to do with number 3 of another. So the shares of each
    layer are sorted within a seed before the mean is taken.

    Attributes:
        configuration: what was run.
        layers: module names, in the order of the network.
        shares: for each layer, the share of samples sent to its most used expert, the second, and so on.
        effective: for each layer, the effective number of experts; None if nothing was sent to any.
    """

    configuration: Configuration
    layers: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    effective: tuple[float | None, ...]


def leaderboard(section: Section) -> list[Standing]:
    """The configurations of a section, best first."""
    reference = source_accuracies(section)
    means = [estimate(list(each.accuracies.values())) for each in section.configurations]
    return [
        Standing(
            configuration=each,
            rank=1 + sum(other.mean > mean.mean for other in means),
            accuracy=mean,
            lowest=min(each.accuracies.values()),
            highest=max(each.accuracies.values()),
            difference=None if each.is_reference else paired_difference(each.accuracies, reference),
        )
        for each, mean in zip(section.configurations, means, strict=True)
    ]


def source_accuracies(section: Section) -> dict[int, float]:
    """Seed -> accuracy of `source`; empty if it was not run."""
    found: dict[int, list[float]] = {}
    for configuration in section.sources:
        for seed, accuracy in configuration.accuracies.items():
            found.setdefault(seed, []).append(accuracy)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Mean of the differences over the seeds that both have; None if there is no such seed."""
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    return estimate(differences) if differences else None


def cost_relative_to_source(section: Section) -> list[float | None]:
    """How many times as long as `source` each configuration took, mean over its cells.

    A cell is compared with `source` in the same sweep, on the same device and under the same protocol, because another
    sweep may have run on another machine. None if there is no such cell.
    """
    reference: dict[tuple[str, str], list[float]] = {}
    for configuration in section.sources:
        for cell in configuration.cells:
            if cell.seconds:
                reference.setdefault((cell.sweep, cell.device), []).append(cell.seconds)
    relative: list[float | None] = []
    for configuration in section.configurations:
        ratios = [
            cell.seconds / statistics.fmean(reference[cell.sweep, cell.device])
            for cell in configuration.cells
            if cell.seconds and (cell.sweep, cell.device) in reference
        ]
        relative.append(statistics.fmean(ratios) if ratios else None)
    return relative


def domain_accuracies(con: duckdb.DuckDBPyConnection, section: Section) -> DomainAccuracies:
    """Accuracy of each configuration in each domain, domains in the order of the protocol."""
    owner = section.owners
    seeds = {cell.cell: cell.seed for each in section.configurations for cell in each.cells}
    found: dict[tuple[int, str], dict[int, float]] = {}
    for cell, domain, accuracy, _ in scores(con, list(owner), ["domain"]):
        found.setdefault((owner[cell], domain), {})[seeds[cell]] = accuracy
    present = {domain for _, domain in found}
    domains = [each for each in section.domains if each in present]
    domains += sorted(present.difference(domains))
    numbers = range(len(section.configurations))
    source = next((number for number in numbers if section.configurations[number].is_reference), -1)
    values = [[found.get((number, domain), {}) for domain in domains] for number in numbers]
    reference = [found.get((source, domain), {}) for domain in domains]
    return DomainAccuracies(
        domains=tuple(domains),
        values=tuple(tuple(_mean(list(each.values())) for each in row) for row in values),
        differences=tuple(
            tuple(_mean_difference(each, other) for each, other in zip(row, reference, strict=True)) for row in values
        ),
    )


def _mean_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> float | None:
    difference = paired_difference(values, reference)
    return None if difference is None else difference.mean


def expert_usage(con: duckdb.DuckDBPyConnection, section: Section) -> list[ExpertUsage]:
    """Use of experts of those configurations that recorded it, in the order of the section."""
    owner = section.owners
    found: dict[int, dict[str, list[tuple[float, ...]]]] = {}
    for cell, layer, shares in rows(
        con,
        f"""
        select cell, layer, list(value order by value desc) from diagnostics
        where quantity = '{Quantity.EXPERT_USAGE}' and cell in (select unnest($cells))
        group by cell, layer order by cell, layer
        """,
        {"cells": list(owner)},
    ):
        found.setdefault(owner[cell], {}).setdefault(layer, []).append(tuple(shares))
    return [_usage(section.configurations[number], layers) for number, layers in sorted(found.items())]


def _usage(configuration: Configuration, by_layer: Mapping[str, Sequence[Sequence[float]]]) -> ExpertUsage:
    layers = sorted(by_layer, key=natural_order)
    return ExpertUsage(
        configuration=configuration,
        layers=tuple(layers),
        # An expert that got nothing may not have been recorded.
        shares=tuple(tuple(map(statistics.fmean, zip_longest(*by_layer[layer], fillvalue=0.0))) for layer in layers),
        effective=tuple(_mean([effective_number(shares) for shares in by_layer[layer]]) for layer in layers),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `blocks.2` before `blocks.10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]
