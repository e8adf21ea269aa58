"""Rules without labels, against formulas written out anew, and what they lose, counted by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.aggregate.rule_losses import ANY, NO_ADAPTATION, read_pools, rule_losses
from analysis.aggregate.rules import RULES, Outputs, Unlabelled, ensv, vote
from analysis.report.rules import rule_table
from analysis.results.load import open_results
from grid.plan.objectives import NO_OBJECTIVES, OBJECTIVES

SAMPLES, CLASSES = 1100, 4


@pytest.fixture(scope="module")
def probabilities():
    logits = np.random.default_rng(3).normal(size=(SAMPLES, CLASSES)) * 2
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def seen(probabilities):
    p, rng = probabilities, np.random.default_rng(4)
    kept = np.arange(0, SAMPLES, 50)
    return Unlabelled(
        position=np.arange(SAMPLES),
        prediction=p.argmax(axis=1).astype(np.int32),
        confidence=p.max(axis=1).astype(np.float32),
        entropy=-(p * np.log(p)).sum(axis=1).astype(np.float32),
        classes=CLASSES,
        samples=SAMPLES,
        outputs=Outputs(p.mean(axis=0), p.T @ p / SAMPLES, kept, p[kept]),
        source=rng.integers(0, CLASSES, SAMPLES).astype(np.int32),
        clean=(rng.random(200).astype(np.float32), rng.random(200) < 0.8),
    )


def histogram_entropy(predictions):
    shares = [list(predictions).count(k) / len(predictions) for k in range(CLASSES)]
    return -sum(share * np.log(share) for share in shares if share)


def test_rules_are_their_formulas(probabilities, seen):
    p = probabilities
    h = -(p * np.log(p)).sum(axis=1)
    y = p.argmax(axis=1)
    kept = p[seen.outputs.positions]
    cosine = np.array([[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in kept] for a in kept])
    density = []
    for i, row in enumerate(cosine):
        weights = np.exp(np.delete(row, i) / 0.05)
        weights /= weights.sum()
        density.append(-(weights * np.log(weights)).sum())
    correlation = p.T @ p / SAMPLES
    confidence, right = seen.clean
    below = np.sort(confidence)[round((1 - right.mean()) * (len(confidence) - 1))]
    expected = {
        "entropy": -h.mean(),
        "confidence": p.max(axis=1).mean(),
        "infomax_hard": histogram_entropy(y) - h.mean(),
        "infomax_hard_worst": min(
            histogram_entropy(y[:500]) - h[:500].mean(), histogram_entropy(y[500:]) - h[500:].mean()
        ),
        "infomax": -(p.mean(axis=0) * np.log(p.mean(axis=0))).sum() - h.mean(),
        "corr_c": correlation.trace() / (np.sqrt(CLASSES) * np.sqrt((correlation**2).sum())),
        "nuclear": np.linalg.norm(p, "nuc") / np.sqrt(SAMPLES * CLASSES),
        "snd": np.mean(density),
        "agreement_source": (y == seen.source).mean(),
        "atc": (p.max(axis=1) > below).mean(),
    }
    assert set(expected) == set(RULES)
    for name, value in expected.items():
        assert RULES[name].score(seen) == pytest.approx(value, abs=0.01 if name == "atc" else 1e-6), name


@pytest.mark.parametrize("name", RULES)
def test_a_guess_is_worth_what_uniform_probabilities_are(name):
    """Predictions of one class, as sure as a guess; soft neighbourhoods and thresholds have their least value."""
    p = np.full((600, CLASSES), 1 / CLASSES)
    of = Unlabelled(
        position=np.arange(600),
        prediction=np.zeros(600, np.int32),
        confidence=np.full(600, 1 / CLASSES, np.float32),
        entropy=np.full(600, np.log(CLASSES), np.float32),
        classes=CLASSES,
        samples=600,
        outputs=Outputs(p.mean(axis=0), p.T @ p / 600, np.arange(600), p),
        source=np.arange(600, dtype=np.int32) % CLASSES,
        clean=(np.linspace(0.5, 1, 100, dtype=np.float32), np.arange(100) > 20),
    )
    chance = RULES[name].chance(CLASSES)
    if name in ("snd", "nuclear"):  # Here equal probabilities are the largest density, and rank one.
        assert chance <= RULES[name].score(of)
    else:
        assert chance == pytest.approx(RULES[name].score(of), abs=1e-6)


def test_the_majority_and_the_ensemble():
    rows = [np.array(row, np.int32) for row in ([0, 1, 2, 3], [0, 1, 0, 0], [1, 1, 2, 0])]
    assert vote(rows) == [0.75, 0.75, 0.75]
    first = np.array([[0.9, 0.1], [0.2, 0.8]])
    second = np.array([[0.4, 0.6], [0.4, 0.6]])
    made = [Outputs(p.mean(axis=0), p.T @ p, np.arange(2), p) for p in (first, second)]
    assert ensv(made) == [1.0, 0.5]


def test_every_rule_of_one_cell_is_an_objective_and_others_are_refused():
    # A cell has its own predictions, except those of pixels.
    assert {name: rule.reads.replace("prediction", "") or None for name, rule in RULES.items()} == {
        name: spec.reads for name, spec in OBJECTIVES.items() if name in RULES
    }
    assert {name: not rule.reads for name, rule in RULES.items()} == {
        name: spec.of_pixels for name, spec in OBJECTIVES.items() if name in RULES
    }
    assert set(NO_OBJECTIVES) == {"vote", "ensv", "held_out"}


HITS = {0.1: 2, 0.2: 5, 0.3: 7, 0.4: 8, 0.5: 1}


def write(results, *, seeds=(0, 1)):
    """Accuracy is best at lr = 0.4, confidence at 0.5: that rule loses all it can."""
    for seed in seeds:
        results.add("source", seed, [1] * 4 + [0] * 6)
        for lr, hits in HITS.items():
            folder = results.add("tent", seed, [1] * hits + [0] * (10 - hits), settings={"lr": lr})
            file = folder / "samples.parquet"
            table = pq.read_table(file)
            sure = pa.array(np.full(10, lr, np.float32))
            at = table.schema.get_field_index("confidence")
            pq.write_table(table.set_column(at, table.schema.field("confidence"), sure), file)


def test_losses_are_counted(results):
    write(results)
    con = open_results(results.folder)
    found = {each.rule: each for each in rule_losses(con)}
    assert found["confidence"].mean.mean == pytest.approx(0.7)
    assert found["confidence"].worst == pytest.approx(0.7)
    assert found["confidence"].worst_choices == 1.0
    assert found[NO_ADAPTATION].mean.mean == pytest.approx(0.4)
    assert found[ANY].mean.mean == pytest.approx(0.8 - 0.46)
    # Predictions are 1 where they hit: the source hits the first four.
    agreement = {lr: 1 - abs(hits - 4) / 10 for lr, hits in HITS.items()}
    assert found["agreement_source"].mean.mean == pytest.approx(0.8 - HITS[max(agreement, key=agreement.get)] / 10)
    assert found["confidence"].pools == 2
    assert "infomax" not in found
    assert "held_out" not in found
    (row,) = [row for row in rule_table(con).rows if row[0] == "confidence"]
    assert row[1:5] == ("70.0", "\u2013", "70.0", "100")


def test_fewer_settings_and_other_streams_make_no_pool(results):
    for lr in (0.1, 0.2, 0.3, 0.4):
        results.add("tent", 0, settings={"lr": lr})
    results.add("tent", 0, settings={"lr": 0.5}, protocol={"stream": "continual"})
    assert read_pools(open_results(results.folder)) == []
    assert rule_table(open_results(results.folder)) is None


def test_outputs_are_read_as_they_were_written(results):
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=6)
    for lr in HITS:
        folder = results.add("tent", 0, [1, 0] * 3, settings={"lr": lr})
        rows = [("mean", 0, p.mean(axis=0)), *(("gram", k, row) for k, row in enumerate(p.T @ p / 6))]
        rows += [("probabilities", position, p[position]) for position in (0, 5)]
        table = [{"cell": folder.name, "quantity": kind, "item": item, "values": list(row)} for kind, item, row in rows]
        pq.write_table(pa.Table.from_pylist(table, schema=schema.OUTPUTS), folder / "outputs.parquet")
    con = open_results(results.folder)
    assert con.sql("select count(*) from outputs").fetchall() == [(6 * len(HITS),)]
    (pool,) = read_pools(con)
    assert [json.loads(each.settings)["lr"] for each in pool.candidates] == sorted(HITS)
    assert pool.scores["nuclear"] == pytest.approx([np.linalg.norm(p, "nuc") / np.sqrt(6 * 3)] * 5)
    assert pool.scores["ensv"] == [1.0] * 5
