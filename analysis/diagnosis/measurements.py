"""What the cells of one section measured beside their accuracy, averaged over seeds.

Values are never mixed between protocols: everything here is of one section.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from analysis.aggregate.standings import natural_order
from analysis.diagnosis.scalars import OWNERS, owners_of, recorded_scalars, scalar_curves
from analysis.figures.panels import Curve, as_curves
from analysis.results.configurations import Section
from analysis.results.load import rows
from analysis.vocabulary import Quantity

Place = Literal["domain", "against", "layer", "item"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Values by two names, mean over seeds.

    Attributes:
        rows, columns: names, in the order in which they are read.
        values: one row a name in `rows`; None where nothing was measured.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    @property
    def known(self) -> list[float]:
        """The values that are there."""
        return [value for row in self.values for value in row if value is not None]


class Measurements:
    """The diagnostics of one section, in one temporary table of the connection.

    Configurations are given by their number in `section.configurations`.

    Attributes:
        section: whose they are.
        quantities: what was measured.
        scalars: what was recorded at single steps, in `batches`.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, section: Section) -> None:
        self.section = section
        # A temporary table belongs to its cursor, so that those of several sections do not replace each other.
        self._con = con.cursor()
        rows(
            self._con,
            f"""
            create or replace temp table measured as
            with {OWNERS}, places as (select distinct cell, step, samples_seen from batches)
            select number, seed, quantity, samples_seen as seen, layer, domain, against, item, value, diagnostics.step,
                diagnostics.step is not distinct from
                    max(diagnostics.step) over (partition by diagnostics.cell, quantity) as last
            from diagnostics join owners on owners.cell = diagnostics.cell
                left join places on places.cell = diagnostics.cell and places.step = diagnostics.step
            where isfinite(value)
            """,
            owners_of(section),
        )
        found = rows(
            self._con, "select quantity, list(distinct number order by number) from measured group by quantity"
        )
        self._numbers: dict[str, list[int]] = dict(found)
        self.quantities = frozenset(self._numbers)
        self.scalars = recorded_scalars(con, section)

    def label(self, number: int) -> str:
        """What a configuration is called."""
        return self.section.configurations[number].label

    def numbers(self, *quantities: Quantity) -> list[int]:
        """The configurations that measured any of these, best first."""
        return sorted({number for quantity in quantities for number in self._numbers.get(quantity, [])})

    def all_numbers(self) -> list[int]:
        """The configurations that measured or recorded anything, best first."""
        recorded = {number for scalar in self.scalars for number in scalar.numbers}
        return sorted(recorded.union(*self._numbers.values()))

    def query(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query on the table `measured`.

        It has the columns of `diagnostics`, with `number` (the configuration) and `seed` in place of the cell. Two more
        columns are `seen`, the samples seen at the step (empty for a value of the whole stream), and `last`, whether
        the step is the last one at which the quantity was measured.
        """
        return rows(self._con, sql, values)

    def over_stream(self, quantity: Quantity, numbers: Sequence[int], domain: str | None = None) -> dict[int, Curve]:
        """Configuration -> the quantity by samples seen: mean over layers; mean, least and largest over seeds.

        Args:
            quantity: what was measured.
            numbers: the configurations.
            domain: only values of this domain and of no pair of domains; all if not given.
        """
        found = self.query(
            """
            with each_seed as (
                select number, seed, seen, avg(value) as value from measured
                where quantity = $quantity and seen is not null and number in (select unnest($numbers))
                    and ($domain is null or (domain = $domain and against = '')) group by all
            )
            select number, seen, avg(value), min(value), max(value) from each_seed group by all order by all
            """,
            quantity=quantity,
            numbers=list(numbers),
            domain=domain,
        )
        return as_curves(found)

    def over_layers(self, quantity: Quantity, numbers: Sequence[int]) -> tuple[tuple[str, ...], dict[int, Curve]]:
        """Layers in the order of the network, and configuration -> the quantity at the end of the stream by layer."""
        found = self.query(
            """
            with each_seed as (
                select number, seed, layer, avg(value) as value from measured
                where quantity = $quantity and last and layer <> '' and number in (select unnest($numbers)) group by all
            )
            select number, layer, avg(value), min(value), max(value) from each_seed group by all
            """,
            quantity=quantity,
            numbers=list(numbers),
        )
        layers = sorted({layer for _, layer, *_ in found}, key=natural_order)
        placed = sorted((number, layers.index(layer), *values) for number, layer, *values in found)
        return tuple(layers), as_curves(placed)

    def at_end(self, quantity: Quantity, layers: bool = True, item: int | None = None) -> dict[int, float]:
        """Configuration -> the quantity at the end of the stream: mean over layers, domains and items, then seeds.

        Args:
            quantity: what was measured.
            layers: whether values of single layers count; if not, only those of the whole network do.
            item: only values of this item; all if not given.
        """
        return dict(
            self.query(
                """
                with each_seed as (
                    select number, seed, avg(value) as value from measured
                    where quantity = $quantity and last and ($layers or layer = '') and item = coalesce($item, item)
                    group by all
                )
                select number, avg(value) from each_seed group by all
                """,
                quantity=quantity,
                layers=layers,
                item=item,
            )
        )

    def layers(self, quantity: Quantity, number: int) -> list[str]:
        """The layers in which a configuration measured it, in the order of the network."""
        found = self.query(
            "select distinct layer from measured where quantity = $quantity and number = $number",
            quantity=quantity,
            number=number,
        )
        return sorted((layer for (layer,) in found), key=natural_order)

    def first_seed(self, quantity: Quantity, number: int) -> int:
        """The smallest seed of a configuration that measured it."""
        ((seed,),) = self.query(
            "select min(seed) from measured where quantity = $quantity and number = $number",
            quantity=quantity,
            number=number,
        )
        return int(seed)

    def matrices(
        self,
        quantity: Quantity,
        numbers: Sequence[int],
        by: tuple[Place, Place],
        *,
        layer: str | None = None,
        one_seed: bool = False,
    ) -> dict[int, Matrix]:
        """Configuration -> the quantity by two places, with the same rows and columns for all configurations.

        Only the latest value at each place counts. If `against` is one of the two places, values that have no second
        domain do not count.

        Args:
            quantity: what was measured.
            numbers: the configurations.
            by: columns of `diagnostics` that give rows and columns; the mean is taken over the others.
            layer: only this layer; the mean over all if not given.
            one_seed: only the smallest seed of each configuration; the mean over all if not.
        """
        row, column = by
        found = self.query(
            f"""
            with latest as (
                select number, seed, layer, domain, against, item, arg_max(value, coalesce(step, -1)) as value,
                    min(seed) over (partition by number) as first_seed
                from measured
                where quantity = $quantity and number in (select unnest($numbers))
                    and ($layer is null or layer = $layer) and (against <> '' or not $paired)
                group by number, seed, layer, domain, against, item
            )
            select number, {row}, {column}, avg(value) from latest
            where seed = first_seed or not $one_seed group by all
            """,
            quantity=quantity,
            numbers=list(numbers),
            layer=layer,
            one_seed=one_seed,
            paired="against" in by,
        )
        return self.as_matrices(found, by)

    def as_matrices(self, found: Sequence[Sequence[Any]], by: tuple[Place, Place]) -> dict[int, Matrix]:
        """Places rows (configuration, row name, column name, value) into one matrix a configuration."""
        row_names = self.ordered(by[0], (row for _, row, _, _ in found))
        column_names = self.ordered(by[1], (column for _, _, column, _ in found))
        values = {(number, row, column): value for number, row, column, value in found}
        return {
            number: Matrix(
                rows=tuple(map(str, row_names)),
                columns=tuple(map(str, column_names)),
                values=tuple(tuple(values.get((number, row, column)) for column in column_names) for row in row_names),
            )
            for number in sorted({number for number, *_ in found})
        }

    def retrieval(self, numbers: Sequence[int]) -> dict[int, Matrix]:
        """Configuration -> mean weight of the bank's entries by true domain (rows) and domain of the entry (columns).

        The mean is over the retrievals in the true domain, with all seeds. If the weights of each retrieval add up to
        1, so do those of a row.
        """
        found = self.query(
            f"""
            with fetched as (
                -- A cell whose folder was copied is there twice.
                select distinct number, seed, step, domain, against, item, value from measured
                where quantity = '{Quantity.RETRIEVAL}' and number in (select unnest($numbers))
            ), times as (
                select number, domain, count(distinct (seed, step)) as retrievals from fetched group by all
            )
            select number, domain, against, sum(value) / any_value(retrievals)
            from fetched join times using (number, domain) group by all
            """,
            numbers=list(numbers),
        )
        return self.as_matrices(found, ("domain", "against"))

    def ordered(self, place: Place, names: Iterable[Any]) -> list[Any]:
        """Distinct names in the order in which they are read: domains as in the protocol, layers as in the network."""
        given = set(names)
        if place == "item":
            return sorted(given)
        if place == "layer":
            return sorted(given, key=natural_order)
        stated = [domain for domain in self.section.domains if domain in given]
        return [*sorted(given.difference(stated)), *stated]

    def scalar_curves(self, name: str, numbers: Sequence[int]) -> dict[int, Curve]:
        """See `scalars.scalar_curves`."""
        return scalar_curves(self._con, self.section, name, numbers)
