"""What the page shows of one protocol: tables, and figures drawn as images."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from analysis.aggregate.standings import domain_accuracies, expert_usage, leaderboard
from analysis.aggregate.streams import domain_blocks, running_accuracies
from analysis.diagnosis.blocks import Block, choose_series
from analysis.diagnosis.diagnosis import Diagnosis, diagnose
from analysis.figures import plots
from analysis.figures.drawings import panel_drawing
from analysis.figures.pictures import MANY_DOTS_PER_INCH, Picture, picture
from analysis.figures.segments import segment_panel
from analysis.figures.setting_plots import setting_drawings
from analysis.figures.table import Table
from analysis.report.leaderboard import cost_table, leaderboard_table
from analysis.report.pictured import Pictured, pictured
from analysis.report.pixels import pixel_tables
from analysis.report.summary import summary
from analysis.results.configurations import Section
from analysis.schema import ACCURACY, METRICS
from analysis.texts import percent

MOST_DIAGNOSED = 4
"""Diagnostics are drawn for so many protocols, the first ones; of the others there are tables only."""
MOST_EXPERT_FIGURES = 8
"""Use of experts is drawn for so many configurations, the best ones."""


@dataclass(frozen=True, slots=True)
class BlockPage:
    """A block of diagnostics with its figures drawn."""

    block: Block
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class SectionPage:
    """What the page shows of one protocol."""

    section: Section
    anchor: str
    summary: str
    leaderboard: Table
    cost: Table
    pixels: tuple[Table, ...]
    pictured: tuple[Pictured, ...]
    metric: str
    dots: Picture
    stream: Picture | None
    window: int
    domains: Picture | None
    differences: Picture | None
    experts: tuple[Picture, ...]
    experts_left_out: int
    settings: tuple[Picture, ...]
    segments: Picture | None
    diagnosis: Diagnosis | None
    blocks: tuple[BlockPage, ...]
    undrawn: bool


def section_page(con: duckdb.DuckDBPyConnection, section: Section, number: int) -> SectionPage:
    """Gathers and draws what the page shows of one protocol.

    Args:
        con: connection from `open_results`.
        section: the protocol's configurations.
        number: of the section on the page, from 0.
    """
    standings, word = leaderboard(section), METRICS[section.metric]
    members = section.configurations
    running = running_accuracies(con, section)
    blocks = domain_blocks(con, section)
    accuracies = domain_accuracies(con, section)
    usages = expert_usage(con, section)
    shown = usages[:MOST_EXPERT_FIGURES]
    most = max((share for usage in shown for shares in usage.shares for share in shares), default=1.0)
    undrawn = number >= MOST_DIAGNOSED
    diagnosis = diagnose(con, section, [start for start, _ in blocks[1:]])
    has_curve = any(curve.samples_seen for curve in running.curves)
    has_difference = any(value is not None for row in accuracies.differences for value in row) and len(members) > 1
    means = "; ".join(f"{each.configuration.label} {percent(each.accuracy.mean)} %" for each in standings)
    return SectionPage(
        section=section,
        anchor=f"protocol-{number + 1}",
        summary=summary(standings),
        leaderboard=leaderboard_table(standings, section),
        cost=cost_table(section),
        pixels=pixel_tables(con, section),
        pictured=pictured(con, section),
        metric=word[:1].upper() + word[1:] if section.metric == ACCURACY else word,
        dots=picture(lambda theme: plots.leaderboard_figure(standings, theme, word), f"Mean {word}: {means}."),
        stream=picture(
            lambda theme: plots.running_accuracy_figure(members, running, blocks, theme, word),
            f"Lines: {word} over the last {running.window} samples along the stream, one line a configuration.",
        )
        if has_curve
        else None,
        window=running.window,
        domains=picture(
            lambda theme: plots.domain_figure(members, accuracies, False, theme),
            f"Heat map: {word} of {len(members)} configurations in {len(accuracies.domains)} domains.",
        )
        if accuracies.domains
        else None,
        differences=picture(
            lambda theme: plots.domain_figure(members, accuracies, True, theme),
            f"Heat map: difference to source in {len(accuracies.domains)} domains, in percentage points.",
        )
        if has_difference
        else None,
        experts=tuple(
            picture(
                lambda theme, usage=usage: plots.expert_figure(usage, most, theme),  # type: ignore[misc]
                f"Heat map: share of samples of each expert in {len(usage.layers)} layers of "
                f"{usage.configuration.label}.",
            )
            for usage in shown
        ),
        experts_left_out=len(usages) - len(shown),
        settings=tuple(picture(each.draw, each.alt) for each in setting_drawings(standings)),
        segments=_segments(con, section),
        diagnosis=diagnosis,
        blocks=tuple(
            BlockPage(
                block,
                tuple(picture(each.draw, each.alt, MANY_DOTS_PER_INCH) for each in block.drawings if not undrawn),
            )
            for block in (diagnosis.blocks if diagnosis else ())
        ),
        undrawn=undrawn,
    )


def _segments(con: duckdb.DuckDBPyConnection, section: Section) -> Picture | None:
    series = choose_series(section, range(len(section.configurations)))
    panel = segment_panel(con, section, list(series))
    if panel is None:
        return None
    drawing = panel_drawing([panel], series)
    return picture(drawing.draw, drawing.alt)
