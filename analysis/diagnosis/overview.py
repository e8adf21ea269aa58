"""One line of figures for each configuration that measured anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.diagnosis.measurements import Measurements
from analysis.diagnosis.tables import cosine, count, label_of, number
from analysis.figures.table import NOT_AVAILABLE, Table, percent, points


@dataclass(frozen=True, slots=True)
class _Figure:
    """A column of the overview."""

    header: str
    value: Callable[[Measurements], Mapping[int, float]]
    words: Callable[[float], str]


def overview_tables(measured: Measurements) -> tuple[Table, ...]:
    """One row a configuration, one column a figure that any of them measured; a table for each group of figures."""
    tables = []
    for caption, figures in _FIGURES.items():
        found = [(figure, figure.value(measured)) for figure in figures]
        found = [(figure, values) for figure, values in found if values]
        numbers = sorted({number for _, values in found for number in values})
        rows = tuple(
            (
                label_of(measured, each),
                *(figure.words(values[each]) if each in values else NOT_AVAILABLE for figure, values in found),
            )
            for each in numbers
        )
        table = Table(
            headers=("Configuration", *(figure.header for figure, _ in found)),
            rows=rows,
            numeric=(False, *(True for _ in found)),
            kinds=("",) * len(rows),
            notes=(),
            caption=caption,
        )
        tables += [table] if rows else []
    return tuple(tables)


def _exact_f1(measured: Measurements) -> Mapping[int, float]:
    return dict(
        measured.query("select number, avg(value) from measured where quantity = 'shift_f1' and item = 0 group by all")
    )


_FIGURES: Mapping[str, tuple[_Figure, ...]] = {
    "Experts and routing": (
        _Figure("Similarity, weights", lambda m: m.at_end("expert_similarity_weight"), cosine),
        _Figure("Similarity, biases", lambda m: m.at_end("expert_similarity_bias"), cosine),
        _Figure("Mutual information, nat", lambda m: m.at_end("routing_information"), number),
        _Figure("Entropy of use", lambda m: m.at_end("routing_entropy"), number),
        _Figure("Load balance", lambda m: m.at_end("load_balance"), number),
        _Figure("Kept energy %", lambda m: m.at_end("kept_energy"), percent),
    ),
    "Spectral codes, alignment and shifts": (
        _Figure("Alignment", lambda m: m.at_end("alignment_std"), number),
        _Figure("That of the source", lambda m: m.at_end("alignment_std_source"), number),
        _Figure("Code drift", lambda m: m.at_end("code_drift"), number),
        _Figure("Shift F1, exact batch", _exact_f1, cosine),
        _Figure("Bank size", lambda m: m.at_end("bank_size"), count),
    ),
    "Domains and forgetting": (
        _Figure("Agreement, mean", lambda m: m.at_end("displacement_cosine_mean", layers=False), cosine),
        _Figure("Least agreeing pair", lambda m: m.at_end("displacement_cosine_min", layers=False), cosine),
        _Figure("Backward transfer", lambda m: m.at_end("backward_transfer"), points),
        _Figure("Clean images, to source", lambda m: m.at_end("forgetting_clean_drop"), points),
    ),
}
OVERVIEW_NOTE = (
    "Means over layers, then over seeds, at the end of the stream where they change along it; on a stream that resets "
    "the method, that is the end of its last domain. Backward transfer and clean images: percentage points of frozen "
    "accuracy."
)
