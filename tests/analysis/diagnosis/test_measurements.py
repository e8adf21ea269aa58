from __future__ import annotations

import math

import pytest

from analysis.diagnosis.measurements import Measurements
from analysis.diagnosis.scalars import Scalar
from analysis.results.configurations import sections
from analysis.results.load import open_results, scalar_fields
from tests.analysis.conftest import measurement


def _measured(results) -> Measurements:
    con = open_results(results.folder)
    (section,) = sections(con)
    return Measurements(con, section)


def test_quantities_and_their_configurations_best_first(results) -> None:
    results.add("tent", 0, (1, 0), measured=[measurement("a", 1.0), measurement("b", math.nan)])
    results.add("moetta", 0, (1, 1), measured=[measurement("a", 1.0)], scalars={"threshold": [0.5]})
    results.add("source", 0, (0, 0))
    found = _measured(results)
    assert found.quantities == {"a"}  # a value that is not a number was not measured
    assert found.numbers("a", "b") == [0, 1]
    assert found.all_numbers() == [0, 1]
    assert found.scalars == (Scalar("threshold", "nat", "meaning of threshold", (0,)),)


def test_over_stream_is_the_mean_over_layers_then_over_seeds(results) -> None:
    for seed, values in enumerate([(0.1, 0.3, 0.5, 0.7), (0.2, 0.4, 0.2, 0.4)]):
        places = [(step, layer) for step in (0, 1) for layer in ("blocks.0", "blocks.1")]
        rows = [measurement("q", v, step=s, layer=x) for (s, x), v in zip(places, values, strict=True)]
        results.add("moetta", seed, [1] * 8, steps=2, measured=[*rows, measurement("q", 9.0)])
    curve = _measured(results).over_stream("q", [0])[0]
    assert curve.x == (4, 8)
    assert curve.mean == pytest.approx((0.25, 0.45))  # (0.2 + 0.3) / 2 and (0.6 + 0.3) / 2
    assert curve.lowest == pytest.approx((0.2, 0.3))
    assert curve.highest == pytest.approx((0.3, 0.6))


def test_over_stream_of_one_domain_leaves_out_pairs(results) -> None:
    rows = [
        measurement("q", 0.9, step=0, domain="clean"),
        measurement("q", 0.1, step=0, domain="clean", against="fog"),
        measurement("q", 0.2, step=0, domain="fog"),
    ]
    results.add("tent", measured=rows)
    assert _measured(results).over_stream("q", [0], domain="clean")[0].mean == (0.9,)


def test_over_layers_takes_the_last_step_in_the_order_of_the_network(results) -> None:
    layers = ("blocks.10.norm", "blocks.2.norm")
    for seed, last in enumerate((0.4, 0.6)):
        rows = [measurement("q", 0.0, step=0, layer=x) for x in layers]
        rows += [measurement("q", last + n, step=1, layer=x) for n, x in enumerate(layers)]
        results.add("moetta", seed, [1] * 4, steps=2, measured=rows)
    found, curves = _measured(results).over_layers("q", [0])
    assert found == ("blocks.2.norm", "blocks.10.norm")
    assert curves[0].x == (0, 1)
    assert curves[0].mean == pytest.approx((1.5, 0.5))
    assert curves[0].lowest == pytest.approx((1.4, 0.4))


def test_at_end_with_and_without_layers(results) -> None:
    rows = [measurement("q", 0.6), measurement("q", 0.2, layer="a"), measurement("q", 0.1, layer="b")]
    results.add("tent", measured=rows)
    measured = _measured(results)
    assert measured.at_end("q") == {0: pytest.approx(0.3)}
    assert measured.at_end("q", layers=False) == {0: 0.6}
    assert measured.at_end("other") == {}


def test_matrices_share_rows_and_columns_and_keep_what_came_last(results) -> None:
    domains = {"domains": ["snow", "fog"]}
    rows = [
        measurement("q", 0.1, step=0, domain="snow", against="snow"),
        measurement("q", 0.7, step=3, domain="snow", against="snow"),
        measurement("q", 0.5, step=3, domain="fog", against="snow"),
        measurement("q", 0.0, step=3, domain="clean"),
    ]
    results.add("tent", 0, (1, 1), protocol=domains, measured=rows)
    results.add("tent", 1, (1, 1), protocol=domains, measured=[measurement("q", 0.9, domain="snow", against="snow")])
    results.add("sar", 0, (0, 0), protocol=domains, measured=[measurement("q", 1.0, domain="fog", against="fog")])
    found = _measured(results).matrices("q", [0, 1], ("domain", "against"))
    assert found[0].rows == found[0].columns == ("snow", "fog")  # the protocol's order, not the alphabet's
    assert found[0].values == ((pytest.approx(0.8), None), (0.5, None))
    assert found[1].values == ((None, None), (None, 1.0))
    assert sorted(found[0].known) == pytest.approx([0.5, 0.8])


def test_matrices_of_one_layer_and_of_one_seed(results) -> None:
    for seed, value in ((3, 10.0), (1, 20.0)):
        rows = [measurement("q", value + item, layer=x, domain="fog", item=item) for item in (10, 2) for x in "ab"]
        results.add("moetta", seed, measured=[*rows, measurement("q", 0.0, layer="c", domain="fog", item=2)])
    measured = _measured(results)
    assert measured.first_seed("q", 0) == 1
    assert measured.layers("q", 0) == ["a", "b", "c"]
    one = measured.matrices("q", [0], ("domain", "item"), layer="a", one_seed=True)[0]
    assert (one.columns, one.values) == (("2", "10"), ((22.0, 30.0),))
    both = measured.matrices("q", [0], ("domain", "item"), layer="a")[0]
    assert both.values == ((17.0, 25.0),)
    over_layers = measured.matrices("q", [0], ("domain", "item"), one_seed=True)[0]
    assert over_layers.values == ((pytest.approx(44 / 3), 30.0),)


def test_retrieval_is_the_mean_over_retrievals(results) -> None:
    def weights(step: int, *values: float) -> list[dict[str, object]]:
        entries = ("source", "snow", "snow")
        return [
            measurement("retrieval", value, step=step, domain="fog", against=entry, item=item)
            for item, (entry, value) in enumerate(zip(entries, values, strict=False))
        ]

    results.add("imse", 0, [1] * 4, steps=2, measured=[*weights(0, 1.0), *weights(1, 0.5, 0.2, 0.3)])
    results.add("imse", 1, [1] * 4, steps=2, measured=weights(0, 0.0, 1.0))
    found = _measured(results).retrieval([0])[0]
    assert (found.rows, found.columns) == (("fog",), ("source", "snow"))
    assert found.values[0] == pytest.approx((0.5, 0.5))  # (1 + 0.5 + 0) / 3 and (0.2 + 0.3 + 1) / 3


def test_scalar_curves_average_neighbouring_steps(results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.diagnosis.scalars.MOST_POINTS", 2)
    results.add("moetta", 0, [1] * 8, scalars={"threshold": [1.0, 3.0, None, 5.0]})
    results.add("moetta", 1, [1] * 8, scalars={"threshold": [2.0, 2.0, 1.0, 1.0]})
    curve = _measured(results).scalar_curves("threshold", [0])[0]
    assert (curve.x, curve.mean) == ((4, 8), (2.0, 3.0))
    assert (curve.lowest, curve.highest) == ((2.0, 1.0), (2.0, 5.0))


def test_units_and_meanings_come_from_the_files(results) -> None:
    results.add("moetta", scalars={"threshold": [0.5]})
    results.add("source")
    assert scalar_fields(open_results(results.folder)) == {"threshold": ("nat", "meaning of threshold")}


def test_values_of_other_protocols_stay_out(results) -> None:
    results.add("tent", measured=[measurement("q", 1.0)])
    results.add("tent", protocol={"stream": "continual"}, measured=[measurement("q", 3.0)])
    con = open_results(results.folder)
    measured = [Measurements(con, section) for section in sections(con)]
    assert sorted(each.at_end("q")[0] for each in measured) == [1.0, 3.0]
