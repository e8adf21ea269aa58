"""One line of figures for each configuration that measured anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.diagnosis.measurements import Measurements
from analysis.figures.table import Table
from analysis.texts import NOT_AVAILABLE, cosine, count, number, percent, points
from analysis.vocabulary import Quantity


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column of the overview.

    Attributes:
        quantity: what it shows, at the end of the stream.
        words: a value as text.
        layers, item: which values count, see `Measurements.at_end`.
    """

    quantity: Quantity
    words: Callable[[float], str]
    layers: bool = True
    item: int | None = None


def overview_tables(measured: Measurements) -> tuple[Table, ...]:
    """One row a configuration, one column a figure that any of them measured; a table for each group of figures."""
    tables = []
    for caption, figures in _FIGURES.items():
        known = [figure for figure in figures if figure.quantity in measured.quantities]
        found = [(figure, measured.at_end(figure.quantity, figure.layers, figure.item)) for figure in known]
        found = [(figure, values) for figure, values in found if values]
        numbers = sorted({number for _, values in found for number in values})
        rows = tuple(
            (
                measured.label(each),
                *(figure.words(values[each]) if each in values else NOT_AVAILABLE for figure, values in found),
            )
            for each in numbers
        )
        table = Table(
            headers=("Configuration", *(figure.quantity.header for figure, _ in found)),
            rows=rows,
            numeric=(False, *(True for _ in found)),
            kinds=("",) * len(rows),
            notes=(),
            caption=caption,
        )
        tables += [table] if rows else []
    return tuple(tables)


_FIGURES: Mapping[str, tuple[_Figure, ...]] = {
    "Experts and routing": (
        _Figure(Quantity.SIMILARITY_WEIGHT, cosine),
        _Figure(Quantity.SIMILARITY_BIAS, cosine),
        _Figure(Quantity.ROUTING_INFORMATION, number),
        _Figure(Quantity.ROUTING_ENTROPY, number),
        _Figure(Quantity.LOAD_BALANCE, number),
        _Figure(Quantity.KEPT_ENERGY, percent),
    ),
    "Spectral codes, alignment and shifts": (
        _Figure(Quantity.ALIGNMENT, number),
        _Figure(Quantity.ALIGNMENT_SOURCE, number),
        _Figure(Quantity.CODE_DRIFT, number),
        _Figure(Quantity.SHIFT_F1, cosine, item=0),
        _Figure(Quantity.BANK_SIZE, count),
    ),
    "Domains and forgetting": (
        _Figure(Quantity.DISPLACEMENT_MEAN, cosine, layers=False),
        _Figure(Quantity.DISPLACEMENT_MIN, cosine, layers=False),
        _Figure(Quantity.BACKWARD_TRANSFER, points),
        _Figure(Quantity.CLEAN_DROP, points),
    ),
}
OVERVIEW_NOTE = (
    "Values are means over layers, then over seeds. What changes along the stream is taken at its end. If the "
    "stream resets the method, that tells of the last domain only. Backward transfer and clean images: percentage "
    "points of frozen accuracy."
)
