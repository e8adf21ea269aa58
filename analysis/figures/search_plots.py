"""Figures of a search: values in the order of trials, and over each setting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.aggregate.studies import COMPLETE, StudyResult, TrialRow
from analysis.figures.drawings import Drawing
from analysis.figures.style import WIDTH, Theme, color_axes, one_line
from analysis.texts import whole_percent

COLUMNS = 3
HEIGHT = 2.7
"""Inches of a row of panels."""


def study_drawing(study: StudyResult) -> Drawing | None:
    """One panel with the values of the trials in order, and one for each searched setting; None if none has a value."""
    trials = [each for each in study.trials if each.value is not None]
    if not trials:
        return None
    best = next((each for each in trials if each.trial == study.best_trial), None)
    told = f"the best is trial {best.trial} with {best.value:.4f}" if best is not None else "none was chosen"
    return Drawing(
        lambda theme: _figure(study, trials, theme),
        f"Dots: {study.objectives[0]} of {len(trials)} trials, in their order and over each setting; {told}.",
    )


def _figure(study: StudyResult, trials: Sequence[TrialRow], theme: Theme) -> Figure:
    space: Sequence[Mapping[str, Any]] = study.definition["space"]
    count = 1 + len(space)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, HEIGHT * rows), layout="constrained", facecolor=theme.background)
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    for axes in panels:
        color_axes(axes, theme)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_ylabel(one_line(study.objectives[0]))
    _history(panels[0], study, trials, theme)
    for axes, each in zip(panels[1:], space, strict=True):
        _over_setting(axes, each, study, trials, theme)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9.5, labelcolor=theme.text
    )
    return figure


def _dots(axes: Axes, xs: Sequence[float], study: StudyResult, trials: Sequence[TrialRow], theme: Theme) -> None:
    """Complete trials filled, others hollow, the best one ringed."""
    for words, color, chosen in (
        ("all cells", theme.series[0], lambda each: each.state == COMPLETE),
        ("ended early, or lost", theme.muted, lambda each: each.state != COMPLETE),
    ):
        some = [(x, each.value or 0.0) for x, each in zip(xs, trials, strict=True) if chosen(each)]
        if some:
            face = color if color != theme.muted else "none"
            across, up = zip(*some, strict=True)
            axes.scatter(across, up, s=26, facecolors=face, edgecolors=color, linewidths=1.0, label=words)
    for x, each in zip(xs, trials, strict=True):
        if each.trial == study.best_trial:
            axes.scatter([x], [each.value or 0.0], s=110, facecolors="none", edgecolors=theme.series[1], label="best")


def _history(axes: Axes, study: StudyResult, trials: Sequence[TrialRow], theme: Theme) -> None:
    better = max if study.maximise else min
    so_far: list[tuple[int, float]] = []
    for each in trials:
        if each.state == COMPLETE and each.value is not None:
            so_far.append((each.trial, better([each.value, *(value for _, value in so_far[-1:])])))
    if so_far:
        axes.step(*zip(*so_far, strict=True), where="post", color=theme.series[2], linewidth=1.4, label="best so far")
    _dots(axes, [each.trial for each in trials], study, trials, theme)
    axes.set_xlabel("trial")


def _over_setting(
    axes: Axes, space: Mapping[str, Any], study: StudyResult, trials: Sequence[TrialRow], theme: Theme
) -> None:
    name = space["name"]
    having = [each for each in trials if name in each.settings]
    share = study.importance.get(name)
    axes.set_xlabel(name if share is None else f"{name} ({whole_percent(share)} % of the spread)")
    if space["kind"] == "choice":
        words = [json.dumps(value) for value in space["values"]]
        _dots(axes, [words.index(json.dumps(each.settings[name])) for each in having], study, having, theme)
        axes.set_xticks(range(len(words)), [one_line(word.strip('"'), 18) for word in words], rotation=20, ha="right")
        return
    if space.get("log"):
        axes.set_xscale("log")
    _dots(axes, [each.settings[name] for each in having], study, having, theme)
    axes.set_xlim(*_with_margin(space["low"], space["high"], log=bool(space.get("log"))))


def _with_margin(low: float, high: float, *, log: bool) -> tuple[float, float]:
    if log:
        margin = (high / low) ** 0.04
        return low / margin, high * margin
    margin = 0.04 * (high - low)
    return low - margin, high + margin
