"""What the results of a section say, in sentences made from the numbers, with what speaks against them."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.aggregate.estimates import Estimate
from analysis.aggregate.standings import Standing, paired_difference
from analysis.figures.table import interval_text
from analysis.texts import join_words, percent, points

MOST_NAMED = 6
"""So many configurations below source are named; of more, only the number is given."""


def summary(standings: Sequence[Standing]) -> str:
    """One paragraph on a section.

    Args:
        standings: from `aggregate.standings.leaderboard`, best first.
    """
    methods = [each for each in standings if not each.configuration.is_reference]
    if not methods:
        only = standings[0]
        return (
            f"Only source was run: {percent(only.accuracy.mean)} % ({_seeds(only.accuracy.count)}). There is nothing "
            "to compare it with."
        )
    return " ".join([_best(methods), *_runner_up(methods), *_below(methods), *_caveats(methods)])


def _best(methods: Sequence[Standing]) -> str:
    best = methods[0]
    who = "The only configuration besides source is" if len(methods) == 1 else "The best configuration is"
    start = f"{who} {best.configuration.label} with {percent(best.accuracy.mean)} % ({_seeds(best.accuracy.count)})"
    if best.difference is None:
        return f"{start}. No finished source cell shares a seed with it, so nothing can be said about a gain."
    difference = best.difference
    if difference.mean < 0:
        side = f"{percent(-difference.mean)} points below source"
    else:
        side = f"{percent(difference.mean)} points above source"
    return f"{start}, {side}; {_verdict(difference)}"


def _verdict(difference: Estimate) -> str:
    if difference.interval is None:
        return "with one seed there is no interval, so how much of this is chance is unknown."
    interval = f"the 95 % interval of the paired difference is {interval_text(difference, points)}"
    if difference.excludes_zero:
        return f"{interval}, which excludes 0."
    return f"{interval}, which includes 0: these seeds do not settle whether it differs from source."


def _runner_up(methods: Sequence[Standing]) -> list[str]:
    if len(methods) < 2:
        return []
    first, second = methods[0], methods[1]
    lead = paired_difference(first.configuration.accuracies, second.configuration.accuracies)
    if lead is None or lead.interval is None:
        return []
    words = f"Its lead over the next, {second.configuration.label}, is {points(lead.mean)} points"
    if lead.excludes_zero:
        return [f"{words} ({interval_text(lead, points)})."]
    return [f"{words} ({interval_text(lead, points)}), so these seeds do not tell the two apart."]


def _below(methods: Sequence[Standing]) -> list[str]:
    compared = [(each, each.difference) for each in methods if each.difference is not None]
    if not compared:
        return []
    below = [(each, difference) for each, difference in compared if difference.mean < 0]
    if not below:
        return ["No configuration falls below source." if len(compared) > 1 else "It does not fall below source."]
    if len(below) > MOST_NAMED:
        clear = sum(difference.excludes_zero for _, difference in below)
        return [f"{len(below)} of {len(compared)} configurations fall below source, {clear} with an interval below 0."]
    named = join_words(
        f"{each.configuration.label} ({points(difference.mean)}"
        + (")" if difference.interval is None else f"; {interval_text(difference, points)})")
        for each, difference in below
    )
    return [f"Below source: {named}."]


def _caveats(methods: Sequence[Standing]) -> list[str]:
    said = []
    best = methods[0].configuration
    if best.needs:
        said.append(f"{best.label} needs more than the stream: {join_words(best.needs)}.")
    if len(methods) > 2:
        said.append(
            f"The best of {len(methods)} was picked by the very numbers that are given here, which flatters it."
        )
    if any(each.accuracy.count == 2 for each in methods):
        said.append("An interval from two seeds is very wide; add seeds to the sweep to narrow it.")
    return said


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"mean of {count} seeds"
