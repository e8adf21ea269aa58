"""Diagnostics over the stream and over the depth of the network, as blocks of curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.diagnosis.measurements import Measurements
from analysis.figures.blocks import Block, panel_drawing
from analysis.figures.panels import Curve, Panel, Series
from analysis.figures.table import Table

SAMPLES_SEEN = "samples seen"
CLEAN = "clean"
"""Domain of images without corruption."""
MOST_PANELS = 12
"""So many scalars are drawn; the others are named."""
_NOT_CURVES = ("shift", "stored", "retrieved")
"""Scalars whose mean over steps means nothing: events and numbers of entries."""

_FIRST = ("threshold", "balance_coefficient", "balance_loss", "effective_experts", "shift_distance")

_BANDS = "Lines: means over seeds. Bands: least to largest seed."
_LAYER_PREFIX = "blocks."
_CLEAN_SOURCE = "source network on clean images"

Shown = Mapping[int, Series]


def stream_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Scalars of the methods' steps, with router confidence, load balance and the size of the bank."""
    given = [each for each in measured.scalars if each.name not in measured.quantities and each.name not in _NOT_CURVES]
    shown = [each for each in given if series.keys() & set(each.numbers)]
    # After the scalars that tell most, those that the best configurations recorded.
    scalars = sorted(shown, key=lambda each: (each.name not in _FIRST, each.numbers))
    drawn, left = scalars[:MOST_PANELS], scalars[MOST_PANELS:]
    panels = [
        Panel(
            _words(each.name),
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
            "load_balance": ("load balance, mean over layers (1: balanced)", ""),
            "top1_probability": ("largest routing probability, mean over layers", ""),
            "routing_change": ("samples that the first router would have sent elsewhere", "share"),
            "bank_size": ("size of the bank", "entries"),
        },
    )
    if not panels:
        return None
    lead = f"{_BANDS} Neighbouring steps are averaged."
    if left:
        lead += f" Not drawn, but in the view batches: {', '.join(_words(each.name) for each in left)}."
    meanings = Table(
        headers=("Curve", "Meaning"),
        rows=tuple((_words(each.name), each.meaning) for each in drawn if each.meaning),
        numeric=(False, False),
        kinds=("",) * sum(bool(each.meaning) for each in drawn),
        notes=(),
        caption="What the methods recorded",
    )
    folded = (meanings,) if meanings.rows else ()
    return Block("Curves over the stream", lead, (panel_drawing(panels, series),), folded=folded)


def similarity_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Similarity of the experts over time and over depth."""
    names = {"expert_similarity_weight": "weights", "expert_similarity_bias": "biases"}
    panels = _over_stream(
        measured,
        series,
        borders,
        {quantity: (f"{words} over the stream, mean over layers", "mean cosine") for quantity, words in names.items()},
    )
    panels += _over_layers(
        measured,
        series,
        {quantity: (f"{words} by layer, end of the stream", "mean cosine") for quantity, words in names.items()},
    )
    if not panels:
        return None
    lead = (
        "Mean cosine between the additive vectors of the experts of one layer: 1 if all have moved in one direction, "
        f"0 if they have nothing in common. {_BANDS}"
    )
    return Block("Similarity of experts", lead, (panel_drawing(panels, series),))


def alignment_block(measured: Measurements, series: Shown, borders: Sequence[int]) -> Block | None:
    """Spread of the alignment of inputs and spectral experts, beside that of the source network."""
    unit = "standard deviation"
    panels = _over_stream(measured, series, borders, {"alignment_std": ("mean over experts", unit)})
    panels += _over_layers(measured, series, {"alignment_std": ("by layer, end of the stream", unit)})
    panels = [
        replace(panel, reference=_source_alignment(measured, panel), reference_label=_CLEAN_SOURCE) for panel in panels
    ]
    quantiles = _over_stream(
        measured,
        series,
        borders,
        {
            "alignment_std_q10": ("experts' 10 % quantile", unit),
            "alignment_std_q50": ("experts' median", unit),
            "alignment_std_q90": ("experts' 90 % quantile", unit),
        },
    )
    drawings = tuple(panel_drawing(each, series) for each in (panels, quantiles) if each)
    if not drawings:
        return None
    lead = (
        "Standard deviation over tokens of the alignment between inputs and the singular vectors of the source "
        "weights. A fall means that all inputs excite the experts alike (feature collapse). Dotted: the source network "
        f"on clean images, the same for all. Over the stream: means over layers. {_BANDS}"
    )
    return Block("Alignment of inputs and experts", lead, drawings)


def clean_panels(measured: Measurements, series: Shown, borders: Sequence[int]) -> list[Panel]:
    """Accuracy of the frozen network on clean images over the stream."""
    curves = measured.over_stream("forgetting_accuracy", list(series), domain=CLEAN)
    if not curves:
        return []
    shares = {number: curve.scaled(100) for number, curve in curves.items()}
    return [Panel("frozen accuracy on clean images", "accuracy (%)", SAMPLES_SEEN, shares, borders=tuple(borders))]


def drift_panels(measured: Measurements, series: Shown, borders: Sequence[int]) -> list[Panel]:
    """Drift of the spectral codes over the stream and by layer."""
    return [
        *_over_stream(
            measured, series, borders, {"code_drift": ("drift over the stream, mean over layers", "relative change")}
        ),
        *_over_layers(measured, series, {"code_drift": ("drift by layer, end of the stream", "relative change")}),
    ]


def routing_panels(measured: Measurements, series: Shown) -> list[Panel]:
    """What routing knows of domains, and how evenly it uses its experts, by layer."""
    return _over_layers(
        measured,
        series,
        {
            "routing_information": ("mutual information of domain and expert", "nat"),
            "routing_entropy": ("entropy of the use of experts", "share of the largest"),
        },
    )


def displacement_panels(measured: Measurements, series: Shown) -> list[Panel]:
    """Agreement of the domains' displacements by layer."""
    return _over_layers(
        measured,
        series,
        {
            "displacement_cosine_mean": ("mean over pairs of domains, by layer", "cosine"),
            "displacement_cosine_min": ("least agreeing pair of domains, by layer", "cosine"),
        },
    )


def _over_stream(
    measured: Measurements, series: Shown, borders: Sequence[int], quantities: Mapping[str, tuple[str, str]]
) -> list[Panel]:
    """One panel a quantity (name -> title, unit) that any of the series measured."""
    panels = []
    for quantity, (title, unit) in quantities.items():
        curves = measured.over_stream(quantity, list(series))
        if curves:
            panels.append(Panel(title, unit, SAMPLES_SEEN, curves, borders=tuple(borders)))
    return panels


def _over_layers(measured: Measurements, series: Shown, quantities: Mapping[str, tuple[str, str]]) -> list[Panel]:
    panels = []
    for quantity, (title, unit) in quantities.items():
        layers, curves = measured.over_layers(quantity, list(series))
        if curves:
            ticks = tuple((float(place), _short(layer)) for place, layer in enumerate(layers))
            panels.append(Panel(title, unit, _layer_label(layers), curves, ticks, markers=True))
    return panels


def _source_alignment(measured: Measurements, panel: Panel) -> Curve | None:
    """The level of the source network: a flat line over the stream, or one point a layer."""
    # All configurations of a section share the source network, so the first tells for all.
    layers, curves = measured.over_layers("alignment_std_source", measured.numbers("alignment_std_source")[:1])
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


def _words(name: str) -> str:
    return name.replace("_", " ")


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit
