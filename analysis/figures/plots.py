"""Figures: accuracy over the stream, domains, leaderboard, use of experts.

Functions return `Figure` objects and touch no global state of matplotlib. Colour-blind readers can tell the
colours apart (after Okabe and Ito, 2008); `source` is dashed and grey everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.aggregate.standings import DomainAccuracies, ExpertUsage, Standing
from analysis.aggregate.streams import RunningAccuracies
from analysis.figures.heat_maps import draw_heat_map
from analysis.figures.style import (
    DASHES,
    LIGHT,
    WIDTH,
    Theme,
    color_map,
    empty_figure,
    one_line,
    series_colors,
    wrapped,
)
from analysis.results.configurations import Configuration
from analysis.texts import NOT_AVAILABLE, percent, points, spaced

_DOMAIN_LETTERS = 24


def running_accuracy_figure(
    configurations: Sequence[Configuration],
    running: RunningAccuracies,
    blocks: Sequence[tuple[int, str]] = (),
    theme: Theme = LIGHT,
    word: str = "accuracy",
) -> Figure:
    """Scores over the last samples along the stream: mean over seeds, band from worst to best seed.

    Args:
        configurations: those of a section, best first; all but the first few are drawn as thin grey lines.
        running: from `aggregate.streams.running_accuracies`, in the same order.
        blocks: from `aggregate.streams.domain_blocks`; marked in the figure if there are at least two.
        theme: colours.
        word: what the scores are.
    """
    colors = series_colors(configurations, theme)
    named = sum(color is not None or each.is_reference for each, color in zip(configurations, colors, strict=True))
    figure, axes = empty_figure(WIDTH, 4.2 + 0.12 * named + (0.6 if len(blocks) > 1 else 0.0), theme)
    # Drawn from worst to best, so that the best lies on top.
    for configuration, curve, color in reversed(list(zip(configurations, running.curves, colors, strict=True))):
        x, mean = curve.samples_seen, [100 * value for value in curve.mean]
        if configuration.is_reference:
            axes.plot(x, mean, color=theme.muted, linestyle=DASHES, linewidth=1.8, label=one_line(configuration.label))
        elif color is None:
            axes.plot(x, mean, color=theme.muted, linewidth=0.7, alpha=0.45, zorder=1)
            continue
        else:
            axes.plot(x, mean, color=color, linewidth=1.9, label=one_line(configuration.label), zorder=3)
        low, high = ([100 * value for value in values] for values in (curve.lowest, curve.highest))
        axes.fill_between(x, low, high, color=color or theme.muted, alpha=0.12, linewidth=0, zorder=2)
    axes.set_xlabel("samples seen")
    axes.set_ylabel(f"{word} over the last {running.window:,} samples (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(0, 1.005 * max((x for curve in running.curves for x in curve.samples_seen), default=1))
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    _mark_blocks(axes, blocks, theme)
    _legend_below(figure, axes, others=len(configurations) - named, theme=theme)
    return figure


def leaderboard_figure(standings: Sequence[Standing], theme: Theme = LIGHT, word: str = "accuracy") -> Figure:
    """Each seed as a dot, the mean as a bar, its 95 % interval as a line; `source` as a dashed line.

    Args:
        standings: from `aggregate.standings.leaderboard`.
        theme: colours.
        word: what the scores are.
    """
    configurations = [each.configuration for each in standings]
    names = [wrapped(each.label) for each in configurations]
    heights = [max(0.36, 0.1 + 0.17 * (name.count("\n") + 1)) for name in names]
    figure, axes = empty_figure(WIDTH, 1.0 + sum(heights), theme)
    centers = [sum(heights[:n]) + height / 2 for n, height in enumerate(heights)]
    low, high = _dot_limits(standings)
    margin = max(0.03 * (high - low), 0.2)
    for each, y, color in zip(standings, centers, series_colors(configurations, theme), strict=True):
        color = color or theme.muted
        if each.accuracy.interval is not None:
            ends = [100 * end for end in each.accuracy.interval]
            axes.plot([max(ends[0], low), min(ends[1], high)], [y, y], color=color, linewidth=1.6, alpha=0.75, zorder=2)
            # An interval that leaves the figure (two seeds can do that) ends in an arrow instead of being cut silently.
            for end, edge, marker in ((ends[0], low, "<"), (ends[1], high, ">")):
                if not low <= end <= high:
                    axes.plot([edge], [y], marker=marker, color=color, markersize=7, zorder=4)
        seeds = [100 * value for value in each.configuration.accuracies.values()]
        axes.scatter(seeds, [y] * len(seeds), s=34, color=color, alpha=0.6, linewidth=0, zorder=3)
        mean = 100 * each.accuracy.mean
        axes.plot([mean, mean], [y - 0.12, y + 0.12], color=color, linewidth=2.6, zorder=4, solid_capstyle="butt")
        axes.text(
            1.012,
            y,
            percent(each.accuracy.mean),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9.5,
            color=theme.text,
        )
    for each in standings:
        if each.configuration.is_reference:
            axes.axvline(100 * each.accuracy.mean, color=theme.muted, linestyle=DASHES, linewidth=1.2, zorder=1)
    axes.text(1.012, 0, "mean", transform=axes.get_yaxis_transform(), va="bottom", fontsize=9, color=theme.muted)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(sum(heights), 0)
    axes.set_yticks(centers, names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{word} (%)")
    return figure


def domain_figure(
    configurations: Sequence[Configuration], accuracies: DomainAccuracies, difference: bool, theme: Theme = LIGHT
) -> Figure:
    """Heat map of configurations by domains, annotated in per cent.

    Args:
        configurations: the rows.
        accuracies: from `aggregate.standings.domain_accuracies`, in the same order.
        difference: whether to show differences to `source`, in percentage points. `source` then has no row.
        theme: colours.
    """
    table = accuracies.differences if difference else accuracies.values
    shown = [
        (configuration, row)
        for configuration, row in zip(configurations, table, strict=True)
        if not (difference and configuration.is_reference)
    ]
    values = [[float("nan") if value is None else 100 * value for value in row] for _, row in shown]
    known = [value for row in values for value in row if value == value]
    if difference:
        reach = max([0.1, *map(abs, known)])
        norm: Normalize = TwoSlopeNorm(0.0, vmin=-reach, vmax=reach)
    else:
        norm = Normalize(min(known, default=0.0), max(known, default=1.0))
    figure, axes = empty_figure(_heat_width(len(accuracies.domains)), _heat_height([each for each, _ in shown]), theme)
    words = [
        [NOT_AVAILABLE if value is None else points(value) if difference else percent(value) for value in row]
        for _, row in shown
    ]
    draw_heat_map(
        axes, values, words, color_map(theme, theme.diverging if difference else theme.sequential), norm, theme
    )
    axes.set_yticks(range(len(shown)), [wrapped(each.label) for each, _ in shown])
    axes.set_xticks(
        range(len(accuracies.domains)),
        [one_line(spaced(domain), _DOMAIN_LETTERS) for domain in accuracies.domains],
        rotation=40,
        ha="left",
        rotation_mode="anchor",
    )
    return figure


def expert_figure(usage: ExpertUsage, most: float | None = None, theme: Theme = LIGHT) -> Figure:
    """Heat map of layers by experts, most used first, with the effective number of experts at the end of each row.

    Args:
        usage: from `aggregate.standings.expert_usage`.
        most: share that has the strongest colour, to compare several figures; the largest share by default.
        theme: colours.
    """
    width = max(len(shares) for shares in usage.shares)
    values = [[100 * share for share in shares] + [float("nan")] * (width - len(shares)) for shares in usage.shares]
    most = max(max(row) for row in usage.shares) if most is None else most
    figure, axes = empty_figure(WIDTH / 2, 1.25 + 0.26 * len(usage.layers), theme)
    words = [[f"{value:.0f}" if value == value and width <= 12 else "" for value in row] for row in values]
    draw_heat_map(axes, values, words, color_map(theme, theme.sequential), Normalize(0, 100 * max(most, 1e-9)), theme)
    axes.set_yticks(range(len(usage.layers)), [one_line(layer or "network") for layer in usage.layers])
    axes.set_xticks(range(width), [str(rank + 1) for rank in range(width)])
    axes.set_xlabel("experts of a layer, most used first; share of samples (%)", fontsize=9)
    axes.xaxis.set_label_position("bottom")
    axes.set_title(wrapped(usage.configuration.label, 52), loc="left", fontsize=10, color=theme.text, pad=22)
    for row, effective in enumerate(usage.effective):
        text = NOT_AVAILABLE if effective is None else f"{effective:.1f}"
        axes.text(
            1.03, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=theme.text, zorder=5
        )
    axes.text(1.03, 1.02, "effective", transform=axes.transAxes, va="bottom", fontsize=9, color=theme.muted)
    return figure


def _mark_blocks(axes: Axes, blocks: Sequence[tuple[int, str]], theme: Theme) -> None:
    if len(blocks) < 2:
        return
    end = axes.get_xlim()[1]
    for (start, domain), following in zip(blocks, [*(start for start, _ in blocks[1:]), end], strict=True):
        axes.axvline(start, color=theme.grid, linewidth=0.8, zorder=0)
        axes.text(
            (start + min(following, end)) / 2,
            1.01,
            one_line(spaced(domain), _DOMAIN_LETTERS),
            transform=axes.get_xaxis_transform(),
            rotation=40,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
            fontsize=8.5 if len(blocks) <= 20 else 6.5,
            color=theme.muted,
        )


def _legend_below(figure: Figure, axes: Axes, others: int, theme: Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = handles[::-1], labels[::-1]  # best first, as in the table
    if others:
        handles += axes.plot([], [], color=theme.muted, linewidth=0.7, alpha=0.6)
        labels.append(f"{others} others")
    columns = max(1, min(4, 110 // (6 + max(map(len, labels), default=1))))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=theme.text,
    )


def _dot_limits(standings: Sequence[Standing]) -> tuple[float, float]:
    """Limits in per cent: all dots, and intervals as far as they leave the dots readable."""
    seeds = [100 * value for each in standings for value in each.configuration.accuracies.values()]
    low, high = min(seeds), max(seeds)
    reach = max(high - low, 1.0)
    for each in standings:
        if each.accuracy.interval is not None:
            low = min(low, max(100 * each.accuracy.interval[0], min(seeds) - 0.6 * reach))
            high = max(high, min(100 * each.accuracy.interval[1], max(seeds) + 0.6 * reach))
    return low, high


def _heat_width(columns: int) -> float:
    return max(WIDTH / 2, min(WIDTH, 3.0 + 0.62 * columns), 2.6 + 0.46 * columns)


def _heat_height(configurations: Sequence[Configuration]) -> float:
    return 1.2 + sum(max(0.34, 0.08 + 0.17 * (wrapped(each.label).count("\n") + 1)) for each in configurations)
