from __future__ import annotations

import io
import itertools
import math

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.aggregate.standings import domain_accuracies, expert_usage, leaderboard
from analysis.aggregate.streams import running_accuracies
from analysis.figures.plots import domain_figure, expert_figure, leaderboard_figure, running_accuracy_figure
from analysis.figures.style import DARK, LIGHT, png
from analysis.results.configurations import sections
from analysis.results.load import open_results


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_figures_of_the_quickstart(quickstart) -> None:
    con = open_results(quickstart.folder)
    (section,) = sections(con)
    figure = leaderboard_figure(leaderboard(section))
    assert [text for text in _texts(figure) if text != "mean"] == ["75.0", "60.0", "55.0", "40.0"]
    running = running_accuracies(con, section, window=5)
    figure = running_accuracy_figure(section.configurations, running)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["moetta num_experts=9", "moetta num_experts=5", "source", "tent"]
    accuracies = domain_accuracies(con, section)
    assert _texts(domain_figure(section.configurations, accuracies, difference=False))[:2] == ["100.0", "50.0"]
    assert "source" not in [
        label.get_text()
        for label in domain_figure(section.configurations, accuracies, difference=True).axes[0].get_yticklabels()
    ]
    assert "effective" in _texts(expert_figure(expert_usage(con, section)[0]))


def test_unlimited_intervals_leave_the_dots_readable(quickstart) -> None:
    (section,) = sections(open_results(quickstart.folder))
    low, high = leaderboard_figure(leaderboard(section)).axes[0].get_xlim()
    assert -10 < low < 40
    assert 80 < high < 120


@pytest.mark.filterwarnings("error")
def test_labels_stay_inside_and_apart_with_many_configurations(results) -> None:
    for number in range(40):
        settings = {"num_experts": number, "a_setting_with_a_long_name": "value" * 3}
        results.add("moetta", 0, (1, 0), settings=settings, domains=("snow", "fog"))
    results.add("moetta", 0, (1, 1), settings={"a_setting_with_a_long_name": "other"}, domains=("snow", "fog"))
    con = open_results(results.folder)
    (section,) = sections(con)
    running = running_accuracies(con, section)
    for figure in (
        leaderboard_figure(leaderboard(section)),
        domain_figure(section.configurations, domain_accuracies(con, section), difference=False),
        running_accuracy_figure(section.configurations, running, [(0, "snow"), (1, "fog")]),
    ):
        png(figure, dpi=50)
        assert math.isfinite(figure.get_figheight())
        whole = figure.bbox
        for label in figure.axes[0].get_yticklabels():
            box = label.get_window_extent()
            assert box.x0 >= whole.x0 - 1
        boxes = sorted(
            (label.get_window_extent() for label in figure.axes[0].get_yticklabels()), key=lambda box: box.y0
        )
        assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "35 others"


def test_png_has_the_background_of_the_theme_and_leaves_matplotlib_alone(quickstart) -> None:
    before = dict(matplotlib.rcParams)
    (section,) = sections(open_results(quickstart.folder))
    for theme, corner in ((LIGHT, (255, 255, 255)), (DARK, (24, 28, 34))):
        image = Image.open(io.BytesIO(png(leaderboard_figure(leaderboard(section), theme), dpi=60)))
        assert image.convert("RGB").getpixel((0, 0)) == corner
        assert image.info == {}
    assert dict(matplotlib.rcParams) == before
