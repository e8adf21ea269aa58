from __future__ import annotations

import pytest

from analysis.diagnosis import maps as diagnostic_maps
from analysis.diagnosis.alarms import alarms, watched
from analysis.diagnosis.blocks import choose, choose_series
from analysis.diagnosis.diagnosis import diagnose, diagnosis_markdown
from analysis.diagnosis.measurements import Measurements
from analysis.diagnosis.overview import overview_tables
from analysis.diagnosis.tables import (
    PUBLISHED_AGREEMENT,
    agreement_table,
    changed_codes_table,
    detection_table,
    domain_table,
    forgetting_table,
    routing_table,
)
from analysis.figures.style import MOST_LINES
from analysis.results.configurations import sections
from analysis.results.load import open_results
from analysis.texts import MINUS, NOT_AVAILABLE, count, number
from tests.analysis.conftest import measurement
from tests.analysis.diagnosed import write_every_quantity

TITLES = [
    "Curves over the stream",
    "Similarity of experts",
    "Routing",
    "Alignment of inputs and experts",
    "Spectral codes",
    "Shift detection and retrieval",
    "Hidden activations and experts",
    "Features by domain",
    "Agreement between domains",
    "Forgetting",
]


def _open(results):
    con = open_results(results.folder)
    (section,) = sections(con)
    return con, section


def _measured(results) -> Measurements:
    return Measurements(*_open(results))


def test_every_quantity_has_its_place(results) -> None:
    write_every_quantity(results)
    con, section = _open(results)
    found = diagnose(con, section, [8, 16])
    assert found is not None
    assert [block.title for block in found.blocks] == TITLES
    assert len(found.alarms) == 2
    assert [table.caption for table in found.overview] == [
        "Experts and routing",
        "Spectral codes, alignment and shifts",
        "Domains and forgetting",
    ]
    assert "Of 5 configurations" in found.choice


def test_nothing_measured(results) -> None:
    results.add("source")
    assert diagnose(*_open(results)) is None
    assert diagnosis_markdown(*_open(results)) == []


def test_only_what_was_measured_is_shown(results) -> None:
    results.add("imse", measured=[measurement("shift_f1", 0.5, item=0)])
    found = diagnose(*_open(results))
    assert found is not None
    assert [block.title for block in found.blocks] == ["Shift detection and retrieval"]
    assert (found.alarms, found.rules, found.choice) == ((), (), "")


def test_alarms_name_layers_and_seeds(results) -> None:
    for seed in (0, 1):
        rows = [
            measurement("routing_collapse", float(seed == 1 and layer in "bc"), layer=f"blocks.{layer}")
            for layer in "abcd"
        ]
        results.add("moetta", seed, measured=rows, settings={"num_experts": 9})
        results.add("moetta", seed, measured=[measurement("routing_collapse", 0.0)], settings={"num_experts": 3})
        results.add("moase", seed, measured=[measurement("kept_energy_alarm", 1.0, layer="blocks.0")])
    assert alarms(_measured(results)) == [
        "Routing collapsed in 2 of 4 layers of moetta num_experts=9, with 1 of 2 seeds: blocks.b and blocks.c.",
        "An expert keeps less than 1 % of the energy of its hidden activations in the one layer of moase, with 2 of 2 "
        "seeds: blocks.0.",
    ]
    assert len(watched(_measured(results))) == 2


def test_many_collapsed_layers_are_counted(results) -> None:
    results.add("moetta", measured=[measurement("routing_collapse", 1.0, layer=f"blocks.{n}") for n in range(9)])
    assert alarms(_measured(results)) == ["Routing collapsed in 9 of 9 layers of moetta."]


def test_routing_rows(results) -> None:
    for seed, (information, entropy, collapse) in enumerate([(0.1, 0.8, 0.0), (0.3, 0.4, 1.0)]):
        rows = [
            measurement("routing_information", information, layer="a"),
            measurement("routing_information", 2 * information, layer="b"),
            measurement("routing_entropy", entropy, layer="a"),
            measurement("routing_entropy", entropy / 2, layer="b"),
            measurement("routing_collapse", collapse, layer="a"),
            measurement("routing_collapse", 0.0, layer="b"),
            measurement("routing", 5.0, layer="a", domain="fog", item=0),
        ]
        results.add("moetta", seed, measured=rows)
    table = routing_table(_measured(results))
    assert table.rows == (("moetta", "0.300", "0.400 (b)", "0.450", "0.300 (b)", "1 of 2"),)
    assert table.kinds == ("alarm",)


def test_detection_rows(results) -> None:
    for seed, precision in enumerate((0.5, 1.0)):
        rows = [measurement("shift_precision", precision, item=0), measurement("shift_recall", 0.25, item=1)]
        results.add("imse", seed, measured=[*rows, measurement("shift_tail_triggers", 1.0 + seed)])
    table = detection_table(_measured(results))
    assert table.rows == (
        ("imse", "0", "0.75", NOT_AVAILABLE, NOT_AVAILABLE, "1.5"),
        ("imse", "1", NOT_AVAILABLE, "0.25", NOT_AVAILABLE, "1.5"),
    )


def test_agreement_rows_have_published_values_for_context_only(results) -> None:
    rows = [
        measurement("displacement_cosine_mean", 0.4),
        measurement("displacement_cosine_mean", 0.9, layer="blocks.0"),
        measurement("displacement_cosine_min", -0.2),
    ]
    results.add("tent", 0, (1, 1), measured=rows)
    results.add("moetta", 0, (0, 0), measured=rows[:2])
    table = agreement_table(_measured(results))
    assert PUBLISHED_AGREEMENT == {"tent": 0.69, "sar": 0.64, "eata": 0.66, "deyo": 0.71}
    assert table.rows == (
        ("tent", "0.40", f"{MINUS}0.20", "0.69"),
        ("moetta", "0.40", NOT_AVAILABLE, NOT_AVAILABLE),
    )
    assert "not comparable" in table.notes[0]


def test_forgetting_rows_are_points_with_their_sign(results) -> None:
    rows = [measurement("backward_transfer", -0.012), measurement("forgetting_clean_drop", -0.05)]
    results.add("tent", measured=rows)
    assert forgetting_table(_measured(results)).rows == (("tent", f"{MINUS}1.2", f"{MINUS}5.0"),)


def test_changed_codes_are_ranked_over_layers(results) -> None:
    for seed in (0, 1):
        rows = [measurement("code_change", value, layer="a", item=item) for item, value in enumerate((0.1, -0.4))]
        rows += [measurement("code_change", 0.2 + 0.2 * seed, layer="b", item=7)]
        rows += [measurement("code_change", 0.6, layer="b", item=8)] if seed else []
        results.add("imse", seed, measured=rows)
    assert changed_codes_table(_measured(results)).rows == (
        ("b", "8", "+0.600", "1"),
        ("b", "7", "+0.300", "2"),
        ("a", "0", "+0.100", "2"),
        ("a", "1", f"{MINUS}0.400", "2"),
    )


def test_tables_of_domains_and_of_pairs(results) -> None:
    rows = [
        measurement("scatter", 2.0, domain="fog"),
        measurement("scatter", 1.0, domain="snow"),
        measurement("divergence", 0.5, domain="snow", against="fog"),
    ]
    results.add("tent", measured=rows)
    measured = _measured(results)
    assert domain_table(measured, "scatter").rows == (("snow", "1.00"), ("fog", "2.00"))
    assert domain_table(measured, "divergence").rows == (("snow to fog", "0.500"),)
    assert domain_table(measured, "other").rows == ()


def test_overview_has_the_columns_that_were_measured(results) -> None:
    rows = [measurement("expert_similarity_weight", value, step=step) for step, value in enumerate((0.8, 0.5))]
    results.add("moetta", 0, (1, 1), steps=2, measured=rows)
    results.add("imse", 0, (1, 0), measured=[measurement("shift_f1", x, item=n) for n, x in enumerate((0.5, 1.0))])
    results.add("source", 0, (0, 0))
    experts, shifts = overview_tables(_measured(results))
    assert (experts.headers, experts.rows) == (("Configuration", "Similarity, weights"), (("moetta", "0.50"),))
    assert (shifts.headers, shifts.rows) == (("Configuration", "Shift F1, exact batch"), (("imse", "0.50"),))
    text = "\n".join(diagnosis_markdown(*_open(results)))
    assert "### Diagnostics" in text
    assert "| moetta        |                0.50 |" in text


def test_numbers() -> None:
    assert [number(value) for value in (None, 0.0, 0.12345, -2.0, 100.0, 12345.6)] == [
        NOT_AVAILABLE, "0", "0.123", f"{MINUS}2.00", "100", "12,346",
    ]  # fmt: skip
    assert [count(value) for value in (None, 3.0, 2.5)] == [NOT_AVAILABLE, "3", "2.5"]


def test_figures_show_the_best_of_each_method(results) -> None:
    for lr in range(8):
        results.add("moetta", 0, [1] * (20 - lr) + [0] * lr, settings={"lr": lr})
    results.add("tent", 0, [1] * 3 + [0] * 17)
    results.add("source", 0, [0] * 20)
    _, section = _open(results)
    assert choose(section, range(10), 4) == [0, 1, 8, 9]
    assert choose(section, range(10), 2) == [0, 8]
    assert choose(section, [5, 6], 3) == [5, 6]
    assert choose(section, range(10), 5, urgent={6}) == [0, 1, 6, 8, 9]
    series = choose_series(section, range(10))
    assert list(series) == [0, 1, 2, 3, 4, 8, 9]
    colors = [each.color for each in series.values()]
    assert colors == [0, 1, 2, 3, 4, 5, None]  # source is grey and dashed
    assert len(series) == MOST_LINES + 1


def test_routing_maps_are_shares_of_the_domain_in_three_layers(results, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        measurement("routing", value, layer=f"blocks.{layer}", domain="fog", item=item)
        for layer in range(5)
        for item, value in enumerate((30.0, 10.0))
    ]
    results.add("moetta", 4, measured=rows)
    drawn = []
    monkeypatch.setattr(diagnostic_maps, "heat_drawing", lambda maps, *words: drawn.append((maps, words)))
    diagnostic_maps.routing_drawings(_measured(results))
    ((maps, words),) = drawn
    assert [each.title for each in maps] == ["layer blocks.0", "layer blocks.2", "layer blocks.4"]
    assert maps[0].values == ((0.75, 0.25),)
    assert maps[0].words == (("75", "25"),)
    assert "moetta, seed 4" in words


def test_forgetting_matrix_is_after_by_on(results, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        measurement("forgetting_accuracy", 0.9, step=0, domain="snow", against="snow"),
        measurement("forgetting_accuracy", 0.6, step=1, domain="snow", against="fog"),
        measurement("forgetting_accuracy", 0.8, step=1, domain="fog", against="fog"),
        measurement("forgetting_accuracy", 0.97, step=1, domain="clean"),
    ]
    results.add("tent", measured=rows, steps=2)
    drawn = []
    monkeypatch.setattr(diagnostic_maps, "heat_drawing", lambda maps, *words: drawn.append(maps))
    diagnostic_maps.forgetting_drawings(_measured(results))
    (((heat,),),) = (drawn,)
    assert (heat.rows, heat.columns) == (("snow", "fog"), ("snow", "fog"))
    assert heat.values == ((0.9, None), (0.6, 0.8))
    assert heat.words == (("90", ""), ("60", "80"))


def test_histograms_show_positive_values_and_name_the_zeros(results, monkeypatch: pytest.MonkeyPatch) -> None:
    from tta_core.diagnostics.activations import EDGES

    assert len(diagnostic_maps.BIN_NAMES) == len(EDGES) + 1  # the last bin is open
    named = [(name, edge) for name, edge in zip(diagnostic_maps.BIN_NAMES, EDGES, strict=False) if name]
    assert all(float(name) == pytest.approx(edge) for name, edge in named)
    shares = [0.5, *([0.0] * 13), 0.5]
    rows = [measurement("hidden_histogram", x, layer="a", domain="fog", item=n) for n, x in enumerate(shares)]
    results.add("moase", measured=rows)
    drawn = []
    monkeypatch.setattr(diagnostic_maps, "heat_drawing", lambda maps, *words: drawn.append(maps))
    diagnostic_maps.histogram_drawings(_measured(results))
    (((heat,),),) = (drawn,)
    assert heat.values[0][-1] == 1.0
    assert heat.row_ends == ("zeros", ("50 %",))


def test_cosines_fit_into_their_cells() -> None:
    assert [diagnostic_maps.cosine_word(value) for value in (0.5, -0.25, 1.0, -0.001, 0.999)] == [
        ".50", f"{MINUS}.25", "1.00", ".00", "1.00",
    ]  # fmt: skip
