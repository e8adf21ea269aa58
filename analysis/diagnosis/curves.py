"""Diagnostics over the stream and over the depth of the network, as blocks of curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.diagnosis.blocks import Block
from analysis.diagnosis.measurements import Measurements
from analysis.figures.drawings import panel_drawing
from analysis.figures.panels import Curve, Panel, Series
from analysis.figures.table import Table
from analysis.texts import spaced
from analysis.vocabulary import CLEAN, EVENTS, TELLING, Quantity

SAMPLES_SEEN = "samples seen"
MOST_PANELS = 12
"""So many scalars are drawn; the others are named."""
_BANDS = "Lines: means over seeds. Bands: least to largest seed."
_LAYER_PREFIX = "blocks."
_CLEAN_SOURCE = "source network on clean images"

Shown = Mapping[int, Series]


def stream_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Scalars of the methods' steps, with router confidence, load balance and the size of the bank."""
    given = [each for each in measured.scalars if each.name not in measured.quantities and each.name not in EVENTS]
    shown = [each for each in given if series.keys() & set(each.numbers)]
    # After the scalars that tell most, those that the best configurations recorded.
    scalars = sorted(shown, key=lambda each: (each.name not in TELLING, each.numbers))
    drawn, left = scalars[:MOST_PANELS], scalars[MOST_PANELS:]
    panels = [
        Panel(
            spaced(each.name),
            _unit(each.unit),
            SAMPLES_SEEN,
            measured.scalar_curves(each.name, list(series)),
            borders=tuple(borders),
        )
        for each in drawn
    ]
    panels += _over_stream(
        measured,
        series,
        borders,
        {
            Quantity.LOAD_BALANCE: "load balance, mean over layers (1: balanced)",
            Quantity.TOP1_PROBABILITY: "largest routing probability, mean over layers",
            Quantity.ROUTING_CHANGE: Quantity.ROUTING_CHANGE.meaning,
            Quantity.BANK_SIZE: Quantity.BANK_SIZE.meaning,
        },
    )
    if not panels:
        return None
    lead = f"{_BANDS} Neighbouring steps are averaged."
    if left:
        lead += f" Not drawn, but in the view batches: {', '.join(spaced(each.name) for each in left)}."
    meanings = Table(
        headers=("Curve", "Meaning"),
        rows=tuple((spaced(each.name), each.meaning) for each in drawn if each.meaning),
        numeric=(False, False),
        kinds=("",) * sum(bool(each.meaning) for each in drawn),
        notes=(),
        caption="What the methods recorded",
    )
    folded = (meanings,) if meanings.rows else ()
    return Block("Curves over the stream", lead, (panel_drawing(panels, series),), folded=folded)


def similarity_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Similarity of the experts over time and over depth."""
    names = {Quantity.SIMILARITY_WEIGHT: "weights", Quantity.SIMILARITY_BIAS: "biases"}
    along = {quantity: f"{words} over the stream, mean over layers" for quantity, words in names.items()}
    panels = _over_stream(measured, series, borders, along)
    by_layer = {quantity: f"{words} by layer, end of the stream" for quantity, words in names.items()}
    panels += _over_layers(measured, series, by_layer)
    if not panels:
        return None
    lead = (
        "Mean cosine between the additive vectors of the experts of one layer: 1 if all have moved in one direction, "
        f"0 if they have nothing in common. {_BANDS}"
    )
    return Block("Similarity of experts", lead, (panel_drawing(panels, series),))


def alignment_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Spread of the alignment of inputs and spectral experts, beside that of the source network."""
    panels = _over_stream(measured, series, borders, {Quantity.ALIGNMENT: "mean over experts"})
    panels += _over_layers(measured, series, {Quantity.ALIGNMENT: "by layer, end of the stream"})
    panels = [
        replace(panel, reference=_source_alignment(measured, panel), reference_label=_CLEAN_SOURCE) for panel in panels
    ]
    quantiles = _over_stream(
        measured,
        series,
        borders,
        {
            Quantity.ALIGNMENT_Q10: "experts' 10 % quantile",
            Quantity.ALIGNMENT_Q50: "experts' median",
            Quantity.ALIGNMENT_Q90: "experts' 90 % quantile",
        },
    )
    drawings = tuple(panel_drawing(each, series) for each in (panels, quantiles) if each)
    if not drawings:
        return None
    lead = (
        "How differently the tokens align with the singular vectors of the source weights: the standard deviation over "
        "tokens. A fall means that all inputs excite the experts alike (feature collapse). Dotted: the source network "
        f"on clean images, the same for all. Over the stream: means over layers. {_BANDS}"
    )
    return Block("Alignment of inputs and experts", lead, drawings)


def clean_panels(measured: Measurements, series: Shown, borders: Sequence[int]) -> list[Panel]:
    """Accuracy of the frozen network on clean images over the stream."""
    curves = measured.over_stream(Quantity.FORGETTING_ACCURACY, list(series), domain=CLEAN)
    if not curves:
        return []
    shares = {number: curve.scaled(100) for number, curve in curves.items()}
    return [Panel("frozen accuracy on clean images", "accuracy (%)", SAMPLES_SEEN, shares, borders=tuple(borders))]


def drift_panels(measured: Measurements, series: Shown, borders: Sequence[int]) -> list[Panel]:
    """Drift of the spectral codes over the stream and by layer."""
    return [
        *_over_stream(measured, series, borders, {Quantity.CODE_DRIFT: "drift over the stream, mean over layers"}),
        *_over_layers(measured, series, {Quantity.CODE_DRIFT: "drift by layer, end of the stream"}),
    ]


def routing_panels(measured: Measurements, series: Shown) -> list[Panel]:
    """What routing knows of domains, and how evenly it uses its experts, by layer."""
    shown = (Quantity.ROUTING_INFORMATION, Quantity.ROUTING_ENTROPY)
    return _over_layers(measured, series, {quantity: quantity.meaning for quantity in shown})


def displacement_panels(measured: Measurements, series: Shown) -> list[Panel]:
    """Agreement of the domains' displacements by layer."""
    return _over_layers(
        measured,
        series,
        {
            Quantity.DISPLACEMENT_MEAN: "mean over pairs of domains, by layer",
            Quantity.DISPLACEMENT_MIN: "least agreeing pair of domains, by layer",
        },
    )


def _over_stream(
    measured: Measurements, series: Shown, borders: Sequence[int], titles: Mapping[Quantity, str]
) -> list[Panel]:
    """One panel for each quantity that any of the series measured, under its title."""
    panels = []
    for quantity, title in titles.items():
        curves = measured.over_stream(quantity, list(series))
        if curves:
            panels.append(Panel(title, _unit(quantity.unit), SAMPLES_SEEN, curves, borders=tuple(borders)))
    return panels


def _over_layers(measured: Measurements, series: Shown, titles: Mapping[Quantity, str]) -> list[Panel]:
    panels = []
    for quantity, title in titles.items():
        layers, curves = measured.over_layers(quantity, list(series))
        if curves:
            ticks = tuple((float(place), _short(layer)) for place, layer in enumerate(layers))
            panels.append(Panel(title, _unit(quantity.unit), _layer_label(layers), curves, ticks, markers=True))
    return panels


def _source_alignment(measured: Measurements, panel: Panel) -> Curve | None:
    """The level of the source network: a flat line over the stream, or one point a layer."""
    # All configurations of a section share the source network, so the first tells for all.
    layers, curves = measured.over_layers(Quantity.ALIGNMENT_SOURCE, measured.numbers(Quantity.ALIGNMENT_SOURCE)[:1])
    if not curves:
        return None
    (curve,) = curves.values()
    if panel.x_ticks:
        level = {_short(layer): value for layer, value in zip(layers, curve.mean, strict=True)}
        known = [(place, level[name]) for place, name in panel.x_ticks if name in level]
        x, values = (tuple(each) for each in zip(*known, strict=True)) if known else ((), ())
    else:
        seen = [x for each in panel.curves.values() for x in each.x]
        x, values = (min(seen), max(seen)), (statistics.fmean(curve.mean),) * 2
    return Curve(x, values, values, values)


def _short(layer: str) -> str:
    return layer.removeprefix(_LAYER_PREFIX) or "network"


def _layer_label(layers: Sequence[str]) -> str:
    return "layer (block.part)" if any(layer.startswith(_LAYER_PREFIX) for layer in layers) else "layer"


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit
