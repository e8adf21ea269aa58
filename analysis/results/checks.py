"""Whether the results are what they say: unique, finite, complete, recounted, comparable, balanced over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import duckdb

from analysis import schema
from analysis.results.configurations import Configuration, configurations
from analysis.results.damage import inspect
from analysis.results.load import FINISHED, folder_of, rows
from analysis.results.protocols import read_protocols, up_to_scoring
from analysis.results.scores import scores

RECOUNT_TOLERANCE = 1e-6
"""A stored accuracy may have been rounded to float32, but a single sample more or less must be noticed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the results that should not be so.

    Attributes:
        check: what was checked, a key of `CHECKS`.
        message: what is wrong, where, for people.
    """

    check: str
    message: str


def unique_cells(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Each cell is there once, and each configuration has one cell a seed."""
    copies = rows(con, "select cell, count(*) from cells group by cell having count(*) > 1 order by cell")
    problems = [
        f"cell {cell} is there {count} times: delete the copies of its folder, or its samples are counted twice"
        for cell, count in copies
    ]
    repeated = rows(
        con,
        f"""
        select list(cell order by started_at, cell), any_value(method), seed
        from (select distinct cell, started_at, method, seed, fingerprint, backbone, settings from cells
            where {FINISHED})
        group by fingerprint, method, backbone, json(settings), seed having count(*) > 1 order by 2, 3, 1
        """,
    )
    problems += [
        f"{method} with the same settings and seed {seed} was run as {_listed(cells)}: the newest is used"
        for cells, method, seed in repeated
    ]
    return problems


def finite_accuracies(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Each finished cell has an accuracy in [0, 1] and finite confidences."""
    bad = rows(
        con,
        f"""
        select cell, score from cells
        where {FINISHED} and (score is null or not isfinite(score) or score not between 0 and 1)
        order by cell
        """,
    )
    problems = [f"cell {cell}: accuracy is {_number(accuracy)}, not a number from 0 to 1" for cell, accuracy in bad]
    lost = rows(
        con,
        """
        select cell, count(*) from samples where not isfinite(confidence) or not isfinite(entropy)
        group by cell order by cell
        """,
    )
    problems += [
        f"cell {cell}: confidence or entropy is not finite for {count} samples: the network has diverged"
        for cell, count in lost
    ]
    return problems


def complete_samples(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Each finished cell has one row for each position of its stream, but for images that were skipped."""
    found = rows(
        con,
        f"""
        with counted as (
            select cell, count(*) as n, count(distinct position) as places, min(position) as low, max(position) as high
            from samples group by cell
        )
        select cells.cell, n_samples - skipped, coalesce(n, 0), coalesce(places, 0), low, high, skipped
        from (
            select distinct cell, n_samples, coalesce(skipped_images, 0) as skipped from cells where {FINISHED}
        ) as cells
            left join counted on counted.cell = cells.cell
        where n is null or n <> n_samples - skipped or places <> n or low < 0 or high >= n_samples
        order by cells.cell
        """,
    )
    problems = []
    for cell, expected, count, places, low, high, skipped in found:
        without = f" without {skipped} that were skipped" if skipped else ""
        if count == 0:
            problems.append(f"cell {cell}: {expected} samples in the stream{without}, but none are stored")
        else:
            problems.append(
                f"cell {cell}: {expected} samples in the stream{without}, but {count} rows with {places} positions "
                f"from {low} to {high}"
            )
    return [*problems, *_skipped_images(con)]


def _skipped_images(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Cells that left damaged images out: their numbers are of fewer images than those of others."""
    found = rows(
        con,
        f"""
        select distinct cell, skipped_images, n_samples from cells
        where {FINISHED} and skipped_images > 0 order by cell
        """,
    )
    return [
        f"cell {cell}: {skipped} of {total} images are damaged and were skipped (named in "
        f"{schema.CELLS_FOLDER}/{cell}/skipped_images.txt): restore them, delete the cell's folder and run it again"
        for cell, skipped, total in found
    ]


def recounted_accuracies(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The accuracy of each finished cell is that of its stored predictions."""
    recounted = {cell: score for cell, score, _ in scores(con)}
    stored = rows(con, f"select distinct cell, metric, score from cells where {FINISHED} order by cell")
    return [
        f"cell {cell}: {schema.METRICS[metric]} {score:.6f} is stored, but its samples give {recounted[cell]:.6f}"
        for cell, metric, score in stored
        if score is not None
        and recounted.get(cell) is not None
        and not abs(score - recounted[cell]) <= RECOUNT_TOLERANCE
    ]


def same_stream_order(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Cells of one protocol and seed saw the same samples in the same order, so that they can be paired.

    Protocols that differ only in which logits are scored count as one: they share their source.
    """
    groups = _groups(con)
    orders: dict[tuple[str, int], set[str]] = {}
    fingerprints: dict[tuple[str, int], set[str]] = {}
    for fingerprint, seed, order in rows(
        con, f"select distinct fingerprint, seed, stream_order from cells where {FINISHED}"
    ):
        key = (groups[fingerprint], seed)
        orders.setdefault(key, set()).add(order)
        fingerprints.setdefault(key, set()).add(fingerprint)
    problems = []
    for key, found in sorted(orders.items(), key=lambda item: (sorted(fingerprints[item[0]]), item[0][1])):
        if len(found) > 1:
            word = "protocol" if len(fingerprints[key]) == 1 else "protocols"
            problems.append(
                f"{word} {_listed(sorted(fingerprints[key]))}, seed {key[1]}: {len(found)} stream orders "
                f"({_listed(sorted(found))}), so its cells did not see the same stream and differences between them "
                "are not paired"
            )
    return problems


def balanced_seeds(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Each configuration has finished with every seed that its protocol was run with.

    Protocols that differ only in which logits are scored count as one: they share their source.
    """
    group_of = _groups(con)
    groups: dict[str, list[Configuration]] = {}
    for each in configurations(con):
        groups.setdefault(group_of[each.fingerprint], []).append(each)
    problems = []
    for members in sorted(groups.values(), key=lambda members: min(each.fingerprint for each in members)):
        seeds = sorted({cell.seed for each in members for cell in (*each.cells, *each.failed)})
        for each in members:
            where = f" (protocol {each.fingerprint})" if len(group_of) > 1 else ""
            failed = {cell.seed for cell in each.failed}
            missing = [seed for seed in seeds if seed not in each.accuracies]
            if missing:
                words = _listed(f"{seed} (failed)" if seed in failed else str(seed) for seed in missing)
                problems.append(f"{each.label}{where}: no result with seed {words}; seeds here are {_listed(seeds)}")
    return problems


def intact_folders(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The folder of each cell has the files that were written, by name and size."""
    folder = folder_of(con)
    return [
        f"{damage.path.relative_to(folder)}: {damage.message}; tta-grid check DIR --repair moves it away, and the next "
        "run makes it anew"
        for damage in inspect(folder, thorough=False).damages
    ]


def _groups(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Fingerprint -> the protocol, up to which logits are scored."""
    return {fingerprint: up_to_scoring(protocol) for fingerprint, protocol in read_protocols(con).items()}


CHECKS: Mapping[str, Callable[[duckdb.DuckDBPyConnection], list[str]]] = {
    "each cell is there once, with one cell a seed": unique_cells,
    "accuracies are numbers from 0 to 1 and confidences are finite": finite_accuracies,
    "each cell has a stored outcome for every sample of its stream": complete_samples,
    "accuracies agree with a recount from the stored outcomes": recounted_accuracies,
    "cells of one protocol and seed saw the same stream": same_stream_order,
    "each configuration has finished with every seed": balanced_seeds,
    "the folder of each cell has the files that were written": intact_folders,
}
"""What is checked, in words -> the check."""


def check_results(con: duckdb.DuckDBPyConnection) -> list[Problem]:
    """Runs all checks.

    Args:
        con: connection from `open_results`.

    Returns:
        What is wrong, in the order of `CHECKS`; an empty list if nothing is.
    """
    return [Problem(name, message) for name, check in CHECKS.items() for message in check(con)]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"
