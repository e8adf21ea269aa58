from __future__ import annotations

import pytest

from analysis.aggregate.standings import leaderboard
from analysis.figures import setting_plots
from analysis.figures.setting_plots import setting_drawings
from analysis.figures.style import LIGHT, png
from analysis.results.configurations import sections
from analysis.results.load import open_results


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been drawn: panels with their series, and heat maps."""
    found: list[object] = []
    monkeypatch.setattr(setting_plots, "panel_drawing", lambda panels, series, width: found.append((*panels, series)))
    monkeypatch.setattr(setting_plots, "heat_drawing", lambda maps, alt, width: found.append(maps[0]))
    return found


def _draw(results) -> list[object]:
    (section,) = sections(open_results(results.folder))
    return setting_drawings(leaderboard(section))


def _hits(count: int) -> list[int]:
    return [1] * count + [0] * (10 - count)


def test_two_numbers_make_a_heat_map(results, drawn) -> None:
    for experts, (first, second) in {3: (5, 6), 9: (7, 8)}.items():
        for weight, count in ((0.5, first), (1.0, second)):
            results.add("moetta", 0, _hits(count), settings={"num_experts": experts, "lambda_balance": weight, "lr": 1})
    results.add("source", 0, _hits(4))
    _draw(results)
    (heat,) = drawn
    assert (heat.y_label, heat.x_label) == ("num_experts", "lambda_balance")
    assert (heat.rows, heat.columns) == (("3", "9"), ("0.5", "1"))
    assert heat.values == ((0.5, 0.6), (0.7, 0.8))
    assert heat.words == (("50.0", "60.0"), ("70.0", "80.0"))


def test_one_number_makes_a_line_with_intervals(results, drawn) -> None:
    for weight, counts in {0: (5, 7), 1: (6, 6), 2: (8, 8)}.items():
        for seed, count in enumerate(counts):
            results.add("imse", seed, _hits(count), settings={"lambda_diversity": weight})
    results.add("source", 0, _hits(4))
    _draw(results)
    ((panel, series),) = drawn
    curve = panel.curves[0]
    assert (curve.x, curve.mean) == ((0, 1, 2), pytest.approx((60, 60, 80)))
    assert curve.highest[0] == pytest.approx(60 + 127.062, rel=1e-4)  # t(0.975, 1) * s / sqrt(2), s = 10 sqrt(2)
    assert curve.highest[1:] == pytest.approx((60, 80))
    assert panel.reference.mean == (40, 40)
    assert [each.label for each in series.values()] == ["imse"]


def test_settings_that_are_no_numbers_make_lines_of_their_own(results, drawn) -> None:
    for experts in (2, 4, 16):
        for constant in (False, True):
            settings = {"num_experts": experts, "constant": constant}
            results.add("moase", 0, _hits(4 + constant), settings=settings)
    _draw(results)
    ((panel, series),) = drawn
    assert {each.label for each in series.values()} == {"constant=true", "constant=false"}
    assert panel.x_ticks == ((0, "2"), (1, "4"), (2, "16"))  # far apart, so spaced evenly
    assert "spaced evenly" in panel.x_label
    assert panel.reference is None


def test_index_ranges_count_from_either_end(results, drawn) -> None:
    for count, frozen in enumerate(("", "0-0", "0-3", "8-8", "6-8")):
        results.add("moetta", 0, _hits(9 - count), settings={"disabled_norms": frozen})
    _draw(results)
    ((panel, series),) = drawn
    lines = {series[number].label: (curve.x, curve.mean) for number, curve in panel.curves.items()}
    assert lines["disabled_norms=first n"] == ((0, 1, 4), pytest.approx((90, 80, 70)))
    assert lines["disabled_norms=last n"] == ((0, 1, 3), pytest.approx((90, 60, 50)))


def test_too_little_or_too_much_varies(results, drawn) -> None:
    for lr in (1, 2):
        results.add("tent", 0, settings={"lr": lr})  # two points are no line
        results.add("sar", 0, settings={"lr": lr, "rho": lr})  # half of a grid
        for rho in (1, 2):
            for margin in (1, 2):
                results.add("eata", 0, settings={"lr": lr, "rho": rho, "margin": margin})
    results.add("deyo", 0, settings={"lr": 1})
    for other in ("0-1", "4-5", "9-9"):
        results.add("cotta", 0, settings={"norms": other})  # a range in the middle
    _draw(results)
    assert drawn == []


def test_drawings_can_be_drawn(results) -> None:
    for first in (1, 2, 3):
        results.add("tent", 0, settings={"lr": first})
        for second in (1, 2):
            results.add("sar", 0, settings={"lr": first, "rho": second})
    drawings = _draw(results)
    assert len(drawings) == 2
    for drawing in drawings:
        assert len(png(drawing.draw(LIGHT), dpi=20)) > 100
