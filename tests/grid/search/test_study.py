"""Studies: the same trials whatever ends first and whoever is killed; each cell once; failures by policy."""

import json

import pytest

from tests.grid.search.conftest import SEARCHED, history, made_up


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "nsgaii", "nsgaiii"])
def test_a_search_is_the_same_whatever_ends_first(driver, sampler):
    asked = [f"search.sampler={sampler}", "search.trials=9"]
    first = driver(overrides=asked)
    expected = history(first.run())
    assert len(expected[0]) == 9
    assert first.search.ended
    assert len(first.ran) == len(set(first.ran))
    for seed, slots in ((1, 1), (2, 9)):
        other = driver(overrides=asked)
        assert history(other.run(seed, slots)) == expected
        assert sorted(other.ran) == sorted(first.ran)


def test_a_killed_search_goes_on_as_if_nothing_had_happened(driver):
    expected = driver()
    undisturbed = history(expected.run())
    ran = []
    for number in range(30):
        again = driver(folder="killed")
        again.run(seed=number, slots=3, stop_after=3)
        ran += again.ran
        if not again.ran:
            break
    assert history(again.search) == undisturbed
    assert sorted(ran) == sorted(expected.ran)


def test_a_torn_journal_is_mended_from_the_store(driver):
    expected = driver(folder="torn")
    undisturbed = history(expected.run())
    journal = expected.store.folder / "search" / "studies.log"
    content = journal.read_bytes()
    for length in range(0, len(content), len(content) // 4):
        journal.write_bytes(content[:length])
        again = driver(folder="torn")
        assert history(again.run()) == undisturbed
        assert again.ran == []


def test_more_trials_go_on_with_the_study(driver):
    straight = history(driver(overrides=["search.trials=12"]).run())
    few = driver(folder="raised", overrides=["search.trials=8"])
    few.run()
    more = driver(folder="raised", overrides=["search.trials=12"])
    assert history(more.run(seed=5)) == straight
    assert few.plan.studies[0].name == more.plan.studies[0].name
    assert not set(few.ran) & set(more.ran)


LISTS = SEARCHED.replace("{low: 1e-4, high: 1.0, log: true}", "[0.001, 0.01]").replace(
    "{low: 0.0, high: 0.9}", "{low: 0.0, high: 0.9, step: 0.45}"
)


def test_what_one_study_ran_another_finds(driver):
    alone = driver(LISTS, ["search.sampler=grid"], folder="shared")
    alone.run()
    other = driver(LISTS, ["search.sampler=grid", "search.ahead=3"], folder="shared")
    assert alone.plan.studies[0].name != other.plan.studies[0].name
    (study,) = other.run().studies
    assert not set(other.ran) & set(alone.ran)
    assert all(trial.reused for trial in study.trials)


def test_a_cell_of_the_grid_that_a_study_needs_runs_once(driver):
    done = driver(LISTS.replace("{preset: digits-c", "{tent.lr: 0.01, preset: digits-c"), [
        "search.sampler=grid", "search.oracle=true", "search.seeds=[0,1]", "tent.momentum=0.0",
    ])  # fmt: skip
    (study,) = done.run().studies
    tried = {each.cell for trial in study.trials for each, _ in trial.seen}
    assert tried & set(done.plan.cells)
    assert len(done.ran) == len(set(done.ran))
    assert done.store.states().keys() == set(done.ran)


def test_the_best_trial_is_reported_on_the_sweeps_seeds_and_domains(driver):
    done = driver()
    search = done.run()
    best = search.studies[0].best
    values = [trial.value for trial in search.studies[0].trials if trial.state == "complete"]
    assert best.value == max(values)
    chosen = [config for config in search.cells.values() if config.settings.get("lr") == best.settings["lr"]]
    assert [(config.seed, config.domains) for config in chosen] == [(0, ("fog", "contrast")), (1, ("fog", "contrast"))]
    assert {config.cell_id() for config in chosen} <= set(done.ran)
    assert {cell for cell, state in done.store.states().items() if state == "done"} == set(done.ran)
    assert set(search.cells) <= set(done.ran)


def test_racing_saves_cells_and_none_runs_all(driver):
    raced = driver().run().studies[0].trials
    whole = driver(overrides=["search.race=none"]).run().studies[0].trials
    assert {trial.state for trial in whole} == {"complete"}
    assert "raced-out" in {trial.state for trial in raced}
    assert sum(len(trial.scores) for trial in raced) < sum(len(trial.scores) for trial in whole)
    assert all(trial.whole for trial in raced[:4])


def diverging(config):
    if config.settings.get("lr", 0) > 0.1:
        raise FloatingPointError("tent diverged: parameters or predictions are infinite or not a number")
    return made_up(config)


def test_what_diverges_counts_as_guessing_or_not_at_all(driver):
    tried = ["search.first=[{tent.lr: 0.5, tent.momentum: 0.1}]"]
    counted = driver(result=diverging, overrides=tried).run().studies[0].trials
    lost = [trial for trial in counted if trial.settings["lr"] > 0.1]
    assert lost
    assert {trial.state for trial in lost} == {"diverged"}
    assert all(trial.value == pytest.approx(0.1) for trial in lost)
    left_out = driver(result=diverging, overrides=[*tried, "search.diverged=fail"]).run().studies[0]
    assert {trial.state for trial in left_out.trials if trial.settings["lr"] > 0.1} == {"failed"}
    assert left_out.best.settings["lr"] <= 0.1


def test_failures_in_a_row_end_a_study(driver):
    def broken(config):
        if config.method == "tent":
            raise FloatingPointError("no such file")
        return made_up(config)

    search = driver(result=broken, overrides=["search.max_failed=3", "search.ahead=1"]).run()
    assert search.studies[0].state == "failed"
    assert len(search.studies[0].trials) == 3
    assert search.ended
    assert search.studies[0].best is None


def test_budgets_end_a_study_at_the_same_trial(driver):
    counts = {len(driver(overrides=["search.cells=10"]).run(seed).studies[0].trials) for seed in range(3)}
    assert len(counts) == 1
    assert counts.pop() < 12
    search = driver(overrides=["search.plateau=3", "search.trials=40"]).run()
    assert search.studies[0].state == "plateau"


def test_grid_tries_all_combinations(driver):
    trials = driver(LISTS, ["search.sampler=grid"]).run().studies[0].trials
    tried = [tuple(trial.settings.values()) for trial in trials]
    assert tried == [(lr, momentum) for lr in (0.001, 0.01) for momentum in (0.0, 0.45, 0.9)]


def test_conditions_and_lists_reach_the_sampler(driver):
    text = """
sweep: tuned
base: {preset: digits-c, samples_per_domain: 8, domains: [fog], batch_size: 8, diagnostics: none}
grid: {method: [moetta]}
search:
  trials: 12
  seeds: [7]
  first: none
  space:
    moetta.dynamic_threshold: [true, false]
    moetta.fixed_threshold: {low: 0.1, high: 1.0, when: {moetta.dynamic_threshold: false}}
    moetta.num_experts: {low: 2, high: 9}
"""
    for trial in driver(text).run().studies[0].trials:
        assert ("fixed_threshold" in trial.settings) == (not trial.settings["dynamic_threshold"])
        assert isinstance(trial.settings["num_experts"], int)
        assert trial.state == "complete"


def test_optuna_reads_the_journal(driver):
    import optuna

    done = driver(overrides=["search.trials=24"])
    search = done.run()
    (study,) = search.studies
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(done.store.folder / "search" / "studies.log"))
    )
    loaded = optuna.load_study(study_name=study.plan.name, storage=storage)
    assert len(loaded.trials) == 24
    assert loaded.best_value == study.best.value
    assert json.loads(json.dumps(loaded.user_attrs["definition"])) == study.plan.definition
    assert set(optuna.importance.get_param_importances(loaded)) == {"lr", "momentum"}
