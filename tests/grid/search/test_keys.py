"""Keys of `search:` beyond the plain ones: several objectives, constraints, budgets, ladders, other results."""

import json
from statistics import fmean

import numpy as np
import pytest

from analysis.aggregate.rules import RULES
from analysis.aggregate.studies import read_studies
from analysis.aggregate.unlabelled import read_unlabelled
from analysis.report.rules import rule_table
from analysis.report.selections import selection_table
from analysis.results.configurations import configurations
from analysis.results.load import open_results
from tests.grid.search.conftest import SEARCHED, history, made_up

FEW = ["search.trials=6", "search.space={tent.lr: {low: 0.0001, high: 1.0, log: true}}", "search.seeds=[1000,1001]"]


def by_momentum(config):
    """Accuracy falls with momentum, and so does the error of calibration: no setting is best in both."""
    result = made_up(config)
    lr = config.settings.get("lr", 0.0)
    result.samples["confidence"] = np.full_like(result.samples["confidence"], min(0.99, 0.3 + 5 * lr))
    return result


TWO = ["search.objective=[accuracy, calibration_error]", "search.race=none", "search.seeds=[1000]"]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaiii", "random"])
def test_of_several_objectives_the_front_is_reported(driver, sampler):
    done = driver(overrides=[*FEW, *TWO, f"search.sampler={sampler}"], result=by_momentum)
    (study,) = done.run().studies
    values = {trial.number: (trial.means["accuracy"], -trial.means["calibration_error"]) for trial in study.trials}
    front = {
        number for number, own in values.items()
        if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in values.values())
    }  # fmt: skip
    assert {trial.number for trial in study.front} <= front
    assert {values[trial.number] for trial in study.front} == {values[number] for number in front}
    assert study.picked[0].number == study.best.number
    assert {config.settings["lr"] for config in study.chosen()} == {trial.settings["lr"] for trial in study.front}
    assert [each.name for each in study.mirror.directions] == ["MAXIMIZE", "MINIMIZE"]
    con = open_results(done.store.folder)
    (result,) = read_studies(con)
    assert set(result.front) == {trial.number for trial in study.front}
    labels = [each.label for each in configurations(con) if "tuned" in each.label]
    assert len(labels) == len(set(labels)) == len(study.front)


def test_what_breaks_a_constraint_is_not_chosen(driver):
    free = driver(overrides=FEW, result=by_momentum).run().studies[0]
    most = np.median([trial.settings["lr"] for trial in free.trials])
    bound = f"search.constraints=[{{measure: confidence, at_most: {min(0.99, 0.3 + 5 * most)}}}]"
    kept = driver(overrides=[*FEW, bound], result=by_momentum)
    (study,) = kept.run().studies
    assert study.best.settings["lr"] <= most
    assert study.mirror.trials[0].constraints.keys() == {study.plan.search.constraints[0].text}
    none = driver(overrides=[*FEW, "search.constraints=[{measure: accuracy, at_least: 2}]"], folder="none")
    assert none.run().studies[0].picked == []
    (result,) = read_studies(open_results(none.store.folder))
    assert "no setting keeps the constraints: nothing was chosen" in result.warnings()


def test_hours_of_cells_and_of_the_clock_end_a_study(driver):
    counts = {
        len(driver(overrides=["search.cell_hours=0.003", "search.race=none"]).run(seed).studies[0].trials)
        for seed in range(2)
    }
    # Each cell takes a second: three trials of three are 9 s of the 10.8, and the fourth is the last that counts.
    assert counts == {4 + 3}
    late = driver(overrides=["search.hours=1e-9"], folder="late")
    (study,) = late.run().studies
    assert study.state == "budget"
    assert study.trials == []
    assert late.search.ended
    on = driver(folder="late")
    assert len(on.run().studies[0].trials) == 12


def test_a_ladder_races_on_shorter_streams_first(driver):
    done = driver(overrides=["search.ladder=[5]"])
    (study,) = done.run().studies
    rungs = [(each.config.samples_per_domain, each.whole) for each in study.trials[0].instances]
    assert rungs == [(5, False)] * 3 + [(10, True)] * 3
    early = [trial for trial in study.trials if trial.state == "raced-out" and len(trial.scores) <= 3]
    assert early
    assert all(trial.value is None for trial in early)
    whole = [trial for trial in study.trials if trial.state == "complete"]
    assert all(trial.value == fmean(score.value for score in trial.scores[3:]) for trial in whole)
    (result,) = read_studies(open_results(done.store.folder))
    ((samples, (tau, count)),) = result.rank_agreement().items()
    assert (samples, count) == (5, len(whole))
    assert -1 <= tau <= 1


def test_known_settings_of_other_results_come_first_and_their_cells_are_copied(driver):
    other = driver(folder="other", overrides=[*FEW, "search.race=none", "search.sampler=random"])
    other.run()
    warm = driver(folder="warm", overrides=[*FEW, "search.race=none", f"search.warm_start=[{other.store.folder}]"])
    (plan,) = warm.plan.studies
    assert plan.known == 6
    (study,) = warm.run().studies
    assert len(study.trials) == 12
    known, new = study.trials[:6], study.trials[6:]
    assert {json.dumps(trial.settings) for trial in known} == {
        json.dumps(trial.settings) for trial in other.search.studies[0].trials
    }
    assert all(trial.origin.startswith("warm") and len(trial.reused) == 2 for trial in known)
    assert not {each.cell for trial in known for each in trial.instances} & set(warm.ran)
    assert all({each.cell for each in trial.instances} <= set(warm.ran) for trial in new)


def test_a_database_holds_the_same_study_as_the_journal(driver, tmp_path):
    import optuna

    expected = history(driver(overrides=FEW).run())
    url = f"sqlite:///{tmp_path}/studies.db"
    for stop in (4, None):
        done = driver(folder="database", overrides=[*FEW, f"search.storage={url}"])
        done.run(stop_after=stop)
    assert history(done.search) == expected
    assert not (done.store.folder / "search" / "studies.log").exists()
    (name,) = optuna.get_all_study_names(url)
    assert name == f"{done.plan.studies[0].name}.{done.store.id[:8]}"
    assert len(optuna.load_study(study_name=name, storage=url).trials) == 6


def test_all_tried_settings_may_be_reported_and_stand_in_no_leaderboard(driver):
    done = driver(overrides=[*FEW, "search.reported=all", "search.race=none", "search.first=presets"])
    (study,) = done.run().studies
    tried = {config.cell_id() for trial in study.trials for config in study.plan.reported(trial.settings)}
    assert tried <= set(done.ran)
    con = open_results(done.store.folder)
    roles = dict(con.sql("select cell, role from cells").fetchall())
    chosen = {config.cell_id() for config in study.chosen()} | set(done.plan.cells)
    assert {cell for cell, role in roles.items() if role == "candidate"} == tried - chosen
    assert {cell for cell, role in roles.items() if role == "reported"} == chosen
    assert {cell.cell for each in configurations(con) for cell in each.cells} == chosen
    table = selection_table(con)
    best = max(
        con.sql(
            "select avg(accuracy) from cells where method = 'tent' and 'fog' = any(json_extract_string("
            "protocol, '$.domains[*]')) group by settings"
        ).fetchall()
    )
    assert table.headers[-1].endswith("(oracle)")
    assert float(table.rows[0][-1]) == pytest.approx(100 * best[0], abs=0.05)
    rules = {row[0]: row for row in rule_table(con).rows}
    assert {"held_out", "infomax_hard", "vote", "no adaptation", "the sweep's settings"} <= set(rules)


def collapsing(config):
    if config.method != "source" and config.settings["lr"] > 0.1 and "fog" not in config.domains:
        raise FloatingPointError("tent collapsed: at 512 of 640 samples its last predictions have 0.1 of the entropy")
    return made_up(config)


def test_what_collapses_counts_as_guessing(driver):
    done = driver(overrides=FEW, result=collapsing)
    (study,) = done.run().studies
    lost = [trial for trial in study.trials if trial.settings["lr"] > 0.1]
    assert {trial.state for trial in lost} == {"collapsed"}
    assert all(trial.value == pytest.approx(0.1) for trial in lost)
    assert done.search.may_stop(lost[0].instances[0].cell)
    assert not any(done.search.may_stop(cell) for cell in done.search.cells)
    source = [done.ran.index(cell) for cell in study.plan.all_references]
    assert max(source) < min(done.ran.index(each.cell) for each, _ in study.trials[0].seen if each.cell in done.ran)


def test_a_gain_is_counted_against_the_source_on_the_same_stream(driver):
    done = driver(overrides=[*FEW, "search.objective=accuracy_gain"])
    (study,) = done.run().studies
    (trial, *_) = study.trials
    con = open_results(done.store.folder)
    accuracy = dict(con.sql("select cell, accuracy from cells").fetchall())
    sources = {config.seed: cell for cell, config in study.plan.all_references.items()}
    expected = [accuracy[each.cell] - accuracy[sources[each.seed]] for each, _ in trial.seen]
    assert trial.value == pytest.approx(np.mean(expected))
    roles = con.sql("select cell from cells where role = 'selection' and method = 'source'").fetchall()
    assert {cell for (cell,) in roles} == set(sources.values())


def test_what_a_finished_cell_is_compared_with_is_run_too(driver):
    first = driver(folder="twice", overrides=[*FEW, "search.stop_collapsed=false", "search.sampler=random"])
    first.run()
    again = driver(
        folder="twice",
        overrides=[*FEW, "search.stop_collapsed=false", "search.sampler=random", "search.objective=accuracy_gain",
                   "search.first=[{tent.lr: 0.01}]"],
    )  # fmt: skip
    (study,) = again.run().studies
    assert again.search.ended
    assert set(study.plan.all_references) <= set(again.ran)
    third = driver(folder="twice", overrides=[*FEW, "search.sampler=random", "search.objective=accuracy_gain"])
    assert third.run().ended


def test_rules_without_labels_are_objectives(driver):
    done = driver(overrides=[*FEW, "search.objective=infomax_hard"])
    (study,) = done.run().studies
    for trial in study.trials:
        for instance, score in trial.seen:
            seen = read_unlabelled(
                done.store.cell_folder(instance.cell), classes=10, samples=instance.config.num_samples
            )
            assert score.value == RULES["infomax_hard"].score(seen)
    (plan,) = driver(overrides=[*FEW, "search.objective=corr_c"]).plan.studies
    assert all("outputs" in config.diagnostics for config in plan.choosing)
    assert not any("outputs" in config.diagnostics for config in plan.points)


def test_presets_are_searched_with_what_the_sweep_sets(driver):
    text = SEARCHED.replace("{tent.lr: {low: 1e-4, high: 1.0, log: true}, tent.momentum: {low: 0.0, high: 0.9}}", (
        "{tent.preset: [recommended, digits-c], tent.momentum: {low: 0.0, high: 0.9}}"
    )).replace("first: none", "first: presets")  # fmt: skip
    done = driver(text, ["search.trials=6"])
    (study,) = done.run().studies
    assert study.trials[0].settings["preset"] == "digits-c"
    assert {trial.settings["preset"] for trial in study.trials} == {"recommended", "digits-c"}
    for trial in study.trials:
        (config, *_) = [each.config for each in trial.instances]
        assert config.preset == trial.settings["preset"]
        assert config.settings["momentum"] == trial.settings["momentum"]
    assert len({each.config.settings["lr"] for trial in study.trials for each in trial.instances}) == 2


@pytest.mark.parametrize(
    ("sampler", "trials"),
    [
        ("{name: gp, options: {n_startup_trials: 3}}", 6),
        ("{name: qmc, options: {qmc_type: halton}}", 6),
        ("{name: nsgaii, options: {population_size: 4}}", 9),
        ("{name: tpe, options: {n_startup_trials: 2, multivariate: true}}", 6),
    ],
)
def test_samplers_take_options_and_stay_reproducible(driver, sampler, trials):
    asked = [f"search.sampler={sampler}", f"search.trials={trials}", "search.seeds=[1000]"]
    first = driver(overrides=asked)
    expected = history(first.run())
    assert len(expected[0]) == trials
    assert history(driver(overrides=asked).run(3, 1)) == expected
    plain = driver(overrides=[f"search.sampler={sampler.split()[1].strip(',')}", *asked[1:]])
    assert plain.plan.studies[0].name != first.plan.studies[0].name
