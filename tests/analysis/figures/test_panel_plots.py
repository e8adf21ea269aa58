from __future__ import annotations

import pytest

from analysis.figures.heat_maps import heat_figure
from analysis.figures.panel_plots import panel_figure
from analysis.figures.panels import Curve, HeatMap, Panel, Series
from analysis.figures.style import DARK, LIGHT, png

CURVE = Curve((1, 2, 3), (0.1, 0.2, 0.3), (0.0, 0.1, 0.2), (0.2, 0.3, 0.4))


def _panel(title: str, **values) -> Panel:
    return Panel(title, "nat", "samples seen", {4: CURVE, 7: CURVE}, **values)


@pytest.mark.filterwarnings("error")
def test_panels_share_one_legend_with_source_dashed_and_references_dotted() -> None:
    series = {4: Series("moetta $x$", 1), 7: Series("source", None), 9: Series("not drawn", 2)}
    panels = [_panel("first", reference=CURVE, reference_label="clean"), _panel("second", borders=(1.5,))]
    figure = panel_figure(panels, series, DARK)
    png(figure, dpi=30)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["moetta \\$x\\$", "source", "clean"]
    dashes = [line._unscaled_dash_pattern for line in legend.get_lines()]
    assert dashes[0] == (0, None)
    assert len({str(each) for each in dashes}) == 3
    assert legend.get_lines()[0].get_color() == DARK.series[1]
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("nat", "samples seen")


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_panels_fill_a_grid_and_the_rest_is_blank(count: int, shape: tuple[int, int]) -> None:
    figure = panel_figure([_panel(str(number)) for number in range(count)], {4: Series("a", 0), 7: Series("b", 1)})
    assert len(figure.axes) == shape[0] * shape[1]
    assert [axes.get_visible() for axes in figure.axes] == [True] * count + [False] * (len(figure.axes) - count)


def test_many_names_on_an_axis_are_thinned_and_upright() -> None:
    ticks = tuple((float(number), f"blocks.{number}") for number in range(60))
    figure = panel_figure([_panel("layers", x_ticks=ticks)], {4: Series("a", 0)})
    labels = figure.axes[0].get_xticklabels()
    assert len(labels) == 20
    assert {label.get_rotation() for label in labels} == {90}


def _map(**values) -> HeatMap:
    given = {
        "title": "one",
        "rows": ("snow", "fog"),
        "columns": ("0", "1"),
        "values": ((0.1, None), (0.3, 0.9)),
        "y_label": "domain",
        "x_label": "expert",
        "limits": (0.0, 1.0),
        "words": (("10", ""), ("30", "90")),
    }
    return HeatMap(**given | values)


@pytest.mark.filterwarnings("error")
def test_heat_maps_name_rows_once_and_have_words_or_a_colour_bar() -> None:
    figure = heat_figure([_map(), _map(title="two", row_ends=("zeros", ("5 %", "6 %")))], heading="moetta")
    png(figure, dpi=30)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["snow", "fog"]
    assert [label.get_text() for label in second.get_yticklabels()] == []
    assert [text.get_text() for text in first.texts] == ["10", "", "30", "90"]
    assert [text.get_text() for text in second.texts][-3:] == ["5 %", "6 %", "zeros"]
    assert figure.get_suptitle() == "moetta"
    with_bar = heat_figure([_map(words=(), unit="share", diverging=True, limits=(-1, 1))])
    png(with_bar, dpi=30)
    assert with_bar.axes[-1].get_xlabel() == "share"


def test_words_can_be_read_on_their_cells() -> None:
    dark_cell = heat_figure([_map(values=((0.0, 0.0), (0.0, 1.0)))], LIGHT).axes[0].texts
    assert [text.get_color() for text in dark_cell] == ["#111418"] * 3 + ["#ffffff"]
