"""Diagnostics by domain, expert, layer or bin, as heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from analysis.diagnosis.alarms import alarmed
from analysis.diagnosis.blocks import MOST_MAPS, MOST_MATRICES, choose
from analysis.diagnosis.measurements import Matrix, Measurements
from analysis.figures.drawings import Drawing, heat_drawing
from analysis.figures.panels import HeatMap
from analysis.figures.style import WIDTH
from analysis.texts import cosine, whole_percent
from analysis.vocabulary import SOURCE, Quantity

MOST_WORDS = 40
"""If all matrices of a figure have more columns together, the values are not written into the cells."""
BIN_NAMES = ("1e-4", "", "1e-3", "", "0.01", "", "0.1", "", "1", "", "10", "", "100", "more")
"""Upper ends of the bins 1, 2, ... of `hidden_histogram`, two a decade; bin 0 holds the exact zeros."""
SIDE_BY_SIDE = 2
"""So many square matrices stand side by side."""


def routing_drawings(measured: Measurements) -> list[Drawing]:
    """Share of each domain's samples by expert, in the first, the middle and the last layer, of one seed."""
    drawings = []
    for number in _chosen(measured, Quantity.ROUTING, most=MOST_MAPS):
        label = f"{measured.label(number)}, seed {measured.first_seed(Quantity.ROUTING, number)}"
        counts = {
            layer: measured.matrices(Quantity.ROUTING, [number], ("domain", "item"), layer=layer, one_seed=True)[number]
            for layer in _first_middle_last(measured.layers(Quantity.ROUTING, number))
        }
        maps = [_expert_map(_shares_of_rows(each), f"layer {layer}", "domain") for layer, each in counts.items()]
        drawings.append(_titled(maps, label, "Heat maps: share of each domain's samples by expert"))
    return drawings


def router_weight_drawings(measured: Measurements) -> list[Drawing]:
    """Mean weight of each expert by domain, in the first, middle and last layer, where routing itself is not known."""
    drawings = []
    numbers = set(measured.numbers(Quantity.ROUTER_WEIGHT)).difference(measured.numbers(Quantity.ROUTING))
    for number in choose(measured.section, numbers, MOST_MAPS, alarmed(measured)):
        label = measured.label(number)
        maps = [
            _expert_map(
                measured.matrices(Quantity.ROUTER_WEIGHT, [number], ("domain", "item"), layer=layer)[number],
                f"router weight, layer {layer}",
                "domain",
            )
            for layer in _first_middle_last(measured.layers(Quantity.ROUTER_WEIGHT, number))
        ]
        drawings.append(_titled(maps, label, "Heat maps: mean router weight of each expert by domain"))
    return drawings


def layer_drawings(measured: Measurements, titles: dict[Quantity, str]) -> list[Drawing]:
    """Shares by layer and expert, the quantities side by side under their titles, one figure a configuration."""
    drawings = []
    for number in _chosen(measured, *titles, most=MOST_MAPS):
        maps = []
        for quantity, title in titles.items():
            found = measured.matrices(quantity, [number], ("layer", "item"))
            if found:
                maps.append(_expert_map(found[number], title, "layer"))
        by_rows: dict[tuple[str, ...], list[HeatMap]] = {}
        for each in maps:
            by_rows.setdefault(each.rows, []).append(each)
        for alike in by_rows.values():
            drawings.append(_titled(alike, measured.label(number), "Heat maps: shares by layer and expert"))
    return drawings


def histogram_drawings(measured: Measurements) -> list[Drawing]:
    """Share of each domain's positive hidden activations by size, in the first, middle and last layer, of the best."""
    drawings = []
    for number in _chosen(measured, Quantity.HIDDEN_HISTOGRAM, most=1):
        maps = []
        for layer in _first_middle_last(measured.layers(Quantity.HIDDEN_HISTOGRAM, number)):
            matrix = measured.matrices(Quantity.HIDDEN_HISTOGRAM, [number], ("domain", "item"), layer=layer)[number]
            zeros = tuple(f"{whole_percent(row[0] or 0)} %" for row in matrix.values)
            shares = _shares_of_rows(_without_zeros(matrix))
            heat = _map(shares, f"layer {layer}", "domain", "activation, upper end of the bin")
            maps.append(replace(heat, unit="share of the domain's positive activations", row_ends=("zeros", zeros)))
        most = max(each.limits[1] for each in maps)
        maps = [replace(each, limits=(0, most)) for each in maps]
        drawings.append(_titled(maps, measured.label(number), "Heat maps: sizes of hidden activations by domain"))
    return drawings


def _without_zeros(histogram: Matrix) -> Matrix:
    """The bins of positive values, under names that say how large they are."""
    names = BIN_NAMES if len(histogram.columns) == 1 + len(BIN_NAMES) else histogram.columns[1:]
    return replace(histogram, columns=names, values=tuple(row[1:] for row in histogram.values))


def cosine_drawings(measured: Measurements, quantity: Quantity) -> list[Drawing]:
    """Matrices of cosines between domains."""
    numbers = _chosen(measured, quantity, most=MOST_MATRICES)
    found = measured.matrices(quantity, numbers, ("domain", "against"))
    maps = {
        number: HeatMap(
            title=measured.label(number),
            rows=matrix.rows,
            columns=matrix.columns,
            values=matrix.values,
            words=_words(matrix, cosine_word),
            y_label="",
            x_label="",
            limits=(-1.0, 1.0),
            diverging=True,
            unit=quantity.unit,
        )
        for number, matrix in ((number, _off_diagonal(each)) for number, each in found.items())
        if len(matrix.rows) > 1
    }
    return _pairs(measured, maps, "Heat map: cosine between domains")


def retrieval_drawings(measured: Measurements) -> list[Drawing]:
    """Mean weight of the bank's entries by true domain and by the domain in which they were stored."""
    numbers = _chosen(measured, Quantity.RETRIEVAL, most=MOST_MATRICES)
    maps = {
        number: replace(
            _map(matrix, measured.label(number), "true domain", "domain of the entry", (0, 1)),
            words=_words(matrix, whole_percent),
        )
        for number, matrix in measured.retrieval(numbers).items()
    }
    return _pairs(measured, maps, "Heat map: weight of the bank's entries by true domain")


def forgetting_drawings(measured: Measurements) -> list[Drawing]:
    """Frozen accuracy on each domain (columns) after each domain (rows)."""
    members = measured.section.configurations
    # The source network forgets nothing.
    known_of = [n for n in measured.numbers(Quantity.FORGETTING_ACCURACY) if members[n].method != SOURCE]
    numbers = choose(measured.section, known_of, MOST_MATRICES, alarmed(measured))
    found = measured.matrices(Quantity.FORGETTING_ACCURACY, numbers, ("against", "domain"))
    known = [value for matrix in found.values() for value in matrix.known]
    maps = {
        number: replace(
            _map(matrix, measured.label(number), "after", "accuracy on", (min(known), max(known))),
            words=_words(matrix, whole_percent),
        )
        for number, matrix in found.items()
        if len(matrix.rows) > 1
    }
    return _pairs(measured, maps, "Heat map: frozen accuracy in per cent on each domain after each domain")


def cosine_word(value: float) -> str:
    """A cosine with two decimals and no leading zero, to fit into a cell."""
    return cosine(value).replace("0.", ".", 1)


def _chosen(measured: Measurements, *quantities: Quantity, most: int) -> list[int]:
    return choose(measured.section, measured.numbers(*quantities), most, alarmed(measured))


def _off_diagonal(matrix: Matrix) -> Matrix:
    """The matrix without what each domain has in common with itself."""
    return replace(
        matrix,
        values=tuple(
            tuple(None if row == column else value for column, value in zip(matrix.columns, values, strict=True))
            for row, values in zip(matrix.rows, matrix.values, strict=True)
        ),
    )


def _pairs(measured: Measurements, maps: dict[int, HeatMap], alt: str) -> list[Drawing]:
    listed = list(maps.items())
    drawings = []
    for start in range(0, len(listed), SIDE_BY_SIDE):
        group = listed[start : start + SIDE_BY_SIDE]
        labels = " and ".join(measured.label(number) for number, _ in group)
        width = WIDTH if len(group) > 1 else _single_width(group[0][1])
        drawings.append(heat_drawing([each for _, each in group], f"{alt}, {labels}.", width))
    return drawings


def _single_width(each: HeatMap) -> float:
    return max(WIDTH / 2, min(WIDTH, 2.2 + 0.32 * len(each.columns)))


def _titled(maps: Sequence[HeatMap], label: str, alt: str) -> Drawing:
    """Heat maps of one configuration, its label above the first."""
    return heat_drawing(maps, f"{alt}, {label}.", WIDTH, label)


def _expert_map(matrix: Matrix, title: str, y_label: str) -> HeatMap:
    return replace(_map(matrix, title, y_label, "expert", (0, 1)), words=_words(matrix, whole_percent))


def _map(matrix: Matrix, title: str, y_label: str, x_label: str, limits: tuple[float, float] | None = None) -> HeatMap:
    return HeatMap(
        title=title,
        rows=matrix.rows,
        columns=matrix.columns,
        values=matrix.values,
        y_label=y_label,
        x_label=x_label,
        limits=limits or (0, max(matrix.known, default=1.0)),
    )


def _shares_of_rows(counts: Matrix) -> Matrix:
    rows = []
    for row in counts.values:
        total = sum(value for value in row if value is not None)
        rows.append(tuple(None if value is None or not total else value / total for value in row))
    return replace(counts, values=tuple(rows))


def _words(matrix: Matrix, words: Callable[[float], str]) -> tuple[tuple[str, ...], ...]:
    if len(matrix.columns) > MOST_WORDS // SIDE_BY_SIDE:
        return ()
    return tuple(tuple("" if value is None else words(value) for value in row) for row in matrix.values)


def _first_middle_last(layers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]))
