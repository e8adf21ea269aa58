"""Accuracy over the settings of a method: a line for one setting that varies, a heat map for two."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.aggregate.standings import Standing
from analysis.figures.drawings import Drawing, heat_drawing, panel_drawing
from analysis.figures.panels import Curve, HeatMap, Panel, Series
from analysis.figures.style import MOST_LINES, WIDTH
from analysis.texts import percent, value_text
from analysis.vocabulary import SOURCE

FEWEST_POINTS = 3
"""So many values of a setting make a line; what fewer say is in the leaderboard."""
WIDE = 8.0
"""Values whose largest is so many times their smallest positive one are spaced evenly."""

_COUNTED = "indices in "
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class _Point:
    """A configuration: its place on numeric axes, its other settings that vary, and its standing."""

    numbers: Mapping[str, float]
    others: Mapping[str, str]
    standing: Standing


def setting_drawings(standings: Sequence[Standing]) -> list[Drawing]:
    """One drawing for each method with one or two numeric settings that vary.

    Each value of a setting that is no number has its own line or map. An index range such as `0-3` counts as its number
    of indices. Ranges from the first index on and ranges up to the last index are drawn apart.

    Args:
        standings: from `aggregate.standings.leaderboard`.
    """
    source = [each.accuracy.mean for each in standings if each.configuration.is_reference]
    by_method: dict[str, list[Standing]] = {}
    for each in standings:
        if not each.configuration.is_reference:
            by_method.setdefault(each.configuration.method, []).append(each)
    drawings: list[Drawing] = []
    for method, members in by_method.items():
        points = _points(members)
        names = sorted({name for point in points for name in point.numbers})
        groups = _groups(points)
        if len(names) == 1 and len(groups) <= MOST_LINES:
            drawings += _line(method, names[0], groups, source)
        elif len(names) == 2:
            for label, group in groups.items():
                axes = _in_label_order(names, members[0].configuration.label)
                drawings += _map(f"{method} {label}".strip(), axes, group)
    return drawings


def _points(members: Sequence[Standing]) -> list[_Point]:
    parsed: list[dict[str, Any]] = [json.loads(each.configuration.settings) for each in members]
    shared = [name for name in parsed[0] if all(name in settings for settings in parsed)]
    varying = [name for name in shared if len({json.dumps(settings[name]) for settings in parsed}) > 1]
    points: list[_Point] = []
    for settings, standing in zip(parsed, members, strict=True):
        numbers: dict[str, float] = {}
        others: list[dict[str, str]] = [{}]
        for name in varying:
            values = [each[name] for each in parsed]
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                numbers[name] = float(settings[name])
            elif _are_ranges(values):
                count, ends = _range(settings[name], values)
                numbers[f"{_COUNTED}{name}"] = float(count)
                others = [other | {name: end} for other in others for end in ends]
            else:
                others = [other | {name: value_text(settings[name])} for other in others]
        points += [_Point(numbers, other, standing) for other in others]
    return points


def _groups(points: Sequence[_Point]) -> dict[str, list[_Point]]:
    """Label made of the settings that are no numbers -> the points that share them."""
    groups: dict[str, list[_Point]] = {}
    for point in points:
        groups.setdefault(" ".join(f"{name}={value}" for name, value in point.others.items()), []).append(point)
    return groups


def _line(method: str, name: str, groups: Mapping[str, Sequence[_Point]], source: Sequence[float]) -> list[Drawing]:
    values = sorted({point.numbers[name] for group in groups.values() for point in group})
    if len(values) < FEWEST_POINTS:
        return []
    evenly = _spread(values) >= WIDE and not name.startswith(_COUNTED)
    place = {value: float(number) if evenly else value for number, value in enumerate(values)}
    curves, series = {}, {}
    for number, (label, group) in enumerate(groups.items()):
        ordered = sorted(group, key=lambda point: point.numbers[name])
        ends = [point.standing.accuracy.interval or (point.standing.accuracy.mean,) * 2 for point in ordered]
        curves[number] = Curve(
            tuple(place[point.numbers[name]] for point in ordered),
            tuple(100 * point.standing.accuracy.mean for point in ordered),
            tuple(100 * low for low, _ in ends),
            tuple(100 * high for _, high in ends),
        )
        series[number] = Series(label or method, number)
    level = tuple(100 * value for value in source[:1]) * 2
    reach = (min(place.values()), max(place.values()))
    panel = Panel(
        title=method,
        unit="accuracy (%)",
        x_label=f"{name} (spaced evenly)" if evenly else name,
        curves=curves,
        x_ticks=tuple((place[value], _number(value)) for value in values),
        reference=Curve(reach, level, level, level) if level else None,
        reference_label=SOURCE,
        markers=True,
    )
    return [panel_drawing([panel], series, WIDTH / 2)]


def _map(title: str, axes: tuple[str, str], group: Sequence[_Point]) -> list[Drawing]:
    row_name, column_name = axes
    rows = sorted({point.numbers[row_name] for point in group})
    columns = sorted({point.numbers[column_name] for point in group})
    found = {(point.numbers[row_name], point.numbers[column_name]): point.standing.accuracy.mean for point in group}
    # What a search tried is no grid: most cells would be empty.
    if min(len(rows), len(columns)) < 2 or 2 * len(found) <= len(rows) * len(columns):
        return []
    heat = HeatMap(
        title=title,
        rows=tuple(map(_number, rows)),
        columns=tuple(map(_number, columns)),
        values=tuple(tuple(found.get((row, column)) for column in columns) for row in rows),
        words=tuple(
            tuple(percent(found[row, column]) if (row, column) in found else "" for column in columns) for row in rows
        ),
        y_label=row_name,
        x_label=column_name,
        limits=(min(found.values()), max(found.values())),
        unit="accuracy (%)",
    )
    width = max(WIDTH / 2, min(WIDTH, 2.0 + 0.55 * len(columns)))
    return [heat_drawing([heat], f"Heat map: accuracy in per cent of {title} by {row_name} and {column_name}.", width)]


def _in_label_order(names: Sequence[str], label: str) -> tuple[str, str]:
    """The two names in the order in which labels give settings, which is that of the method's definition."""
    first, second = sorted(names, key=lambda name: label.find(f" {name.split()[-1]}="))
    return first, second


def _are_ranges(values: Sequence[Any]) -> bool:
    """Whether all are empty or a range from the first index or to the last one."""
    if not all(isinstance(value, str) and (not value or _RANGE.fullmatch(value)) for value in values):
        return False
    return all(_range(value, values)[1] for value in values)


def _range(value: str, values: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """How many indices a range has, and where it lies; empty if it lies elsewhere than at an end."""
    found = [(int(match[1]), int(match[2])) for each in values if (match := _RANGE.fullmatch(each))]
    last = max((stop for _, stop in found), default=0)
    match = _RANGE.fullmatch(value)
    if not match:
        return 0, tuple(end for end, there in (("first n", _starts(found)), ("last n", _ends(found, last))) if there)
    start, stop = int(match[1]), int(match[2])
    ends = ("first n",) if start == 0 else ("last n",) if stop == last else ()
    return stop - start + 1, ends


def _starts(found: Sequence[tuple[int, int]]) -> bool:
    return any(start == 0 for start, _ in found)


def _ends(found: Sequence[tuple[int, int]], last: int) -> bool:
    return any(start > 0 and stop == last for start, stop in found)


def _spread(values: Sequence[float]) -> float:
    positive = [value for value in values if value > 0]
    return max(positive) / min(positive) if positive else 1.0


def _number(value: float) -> str:
    return f"{value:.4g}"
