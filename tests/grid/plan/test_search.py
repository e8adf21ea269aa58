"""`search:` of a sweep: ranges, studies, and what is refused."""

import pytest

from grid.plan.objectives import OBJECTIVES
from grid.plan.plan import make_plan
from grid.plan.sweep import read_sweep
from grid.store.store import ResultStore
from tta_core.errors import InputError
from tta_core.methods.registry import methods

HEAD = """
sweep: tuned
base: {preset: digits-c, severity: 5, samples_per_domain: 20, batch_size: 8}
grid:
  method: [source, tent, moetta]
  stream: [mixed, continual]
seeds: [0, 1]
"""


@pytest.fixture
def plan(tmp_path):
    def make(search, head=HEAD):
        file = tmp_path / "tuned.yaml"
        file.write_text(head + "search: {" + search + "}\n")
        return make_plan(read_sweep(str(file)), ResultStore(tmp_path / "none"))

    return make


def test_each_point_has_a_study_and_methods_without_ranges_have_none(plan):
    made = plan("trials: 5")
    assert [(each.method, each.per["stream"]) for each in made.studies] == [
        ("tent", "mixed"), ("tent", "continual"), ("moetta", "mixed"), ("moetta", "continual"),
    ]  # fmt: skip
    assert len(made.cells) == 2 * 2 * 3
    assert "study tuned.tent.mixed." in made.as_text()
    (averaged,) = plan("trials: 5, per: [method], space: {tent.lr: spec}").studies
    assert [each.stream for each in averaged.choosing] == ["mixed", "continual"]
    assert [(each.seed, each.point) for each in averaged.instances({})][:3] == [(1000, 0), (1000, 1), (1001, 0)]


def test_a_space_may_add_to_the_ranges_of_all_methods(plan):
    tent, moetta = plan("trials: 5, per: [method], space: {default: spec, moetta.num_experts: [2, 3]}").studies
    assert [each.text() for each in tent.space] == [each.text() for each in plan("trials: 5").studies[0].space]
    assert {each.name for each in moetta.space} == set(methods()["moetta"].search)
    assert next(each for each in moetta.space if each.name == "num_experts").text() == "num_experts 2, 3"


def test_settings_are_chosen_on_held_out_domains_over_as_many_samples(plan):
    for study in plan("trials: 5").studies:
        for choosing, reported in zip(study.choosing, study.points, strict=True):
            assert not set(choosing.domains) & set(reported.domains)
            assert choosing.samples_per_domain == 75
            assert choosing.num_samples == reported.num_samples == 300
        assert study.length_ratio == 1
    long = HEAD.replace("samples_per_domain: 20, ", "")
    study = plan("trials: 5, space: {tent.lr: spec}", long).studies[0]
    assert study.length_ratio == pytest.approx(4 / 15, abs=0.01)
    assert "shorter than the reported" in "".join(study.notes)


def test_budgets_are_no_part_of_a_study_and_what_decides_is(plan):
    name = plan("trials: 5").studies[0].name
    for same in (
        "trials: 9",
        "trials: 5, cells: 9",
        "trials: 5, plateau: 3",
        "trials: 5, reported: best",
        "trials: 5, hours: 2",
        "trials: 5, cell_hours: 3, storage: 'sqlite:///x.db'",
        "trials: {default: 5}",
    ):
        assert plan(same).studies[0].name == name
    for other in (
        "sampler: random",
        "seeds: [5, 6]",
        "race: none",
        "ahead: 2",
        "ladder: [10]",
        "stop_collapsed: false",
        "constraints: [{measure: accuracy, at_least: 0.1}]",
        "sampler: {name: tpe, options: {n_startup_trials: 3}}",
        "first: none",
        "space: {tent.lr: [0.1]}",
    ):
        assert plan(f"trials: 5, {other}").studies[0].name != name


def test_presets_come_first_and_extend_ranges(plan):
    (study,) = plan("trials: 9, per: [method], space: {tent.lr: {low: 0.1, high: 0.2}}").studies
    assert study.first["the sweep's settings"] == {"lr": study.points[0].settings["lr"]}
    assert "preset recommended" in study.first
    assert study.space[0].low == min(values["lr"] for values in study.first.values())
    assert any("is extended to" in note for note in study.notes)


@pytest.mark.parametrize("name", [name for name, spec in methods().items() if spec.search])
def test_the_ranges_of_each_method_make_studies(plan, name):
    head = (
        HEAD.replace("[source, tent, moetta]", f"[{name}]")
        .replace(", batch_size: 8", "")
        .replace("preset: digits-c, ", "")
    )
    if not methods()[name].takes(("transformer",)):
        head = head.replace("base: {", "base: {backbone: digits-resnet-supervised, ")
    for study in plan("trials: 3", head).studies:
        assert {each.name for each in study.space} == set(methods()[name].search)
        assert len(study.instances(study.first["the sweep's settings"])) == 3


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("{}", "'trials' is missing"),
        ("trials: 0", "trials"),
        ("trials: 5, spcae: {}", "did you mean 'space'"),
        ("trials: 5, space: {tent.lr0: spec}", "Did you mean 'lr'"),
        ("trials: 5, space: {sar.lr: spec}", "sar is not in this sweep"),
        ("trials: 5, space: {default: all}", "default: give spec"),
        ("trials: 5, space: {batch_size: [8, 16]}", "make it an axis of the grid"),
        ("trials: 5, space: {tent.preset: [papr]}", "unknown preset of tent 'papr'"),
        ("trials: 5, space: {tent.preset: {low: 1, high: 2}}", "list of their names"),
        ("trials: 5, space: {tent.momentum: spec}", "has no range for it"),
        ("trials: 5, space: {tent.lr: {low: 1}}", "low and high"),
        ("trials: 5, space: {tent.lr: {low: 1, high: 0.1}}", "is not below"),
        ("trials: 5, space: {tent.lr: {low: 0, high: 0.1}}", "lr = 0"),
        ("trials: 5, space: {tent.lr: {low: 0.1, high: 1, steps: 3}}", "Did you mean 'step'"),
        ("trials: 5, space: {tent.lr: {low: a, high: 1}}", "is no number"),
        ("trials: 5, space: {tent.lr: [fast]}", "lr = 'fast'"),
        ("trials: 5, space: {tent.lr: [0.1, 0.1]}", "twice"),
        ("trials: 5, space: {moetta.num_experts: {low: 2.5, high: 4}}", "no whole number"),
        ("trials: 5, space: {moetta.dynamic_threshold: {low: 0, high: 1}}", "give a list"),
        (
            "trials: 5, space: {moetta.fixed_threshold: {low: 0.1, high: 1, when: {moetta.dynamic_threshold: false}}}",
            "the range is never used",
        ),
        ("trials: 5, space: {tent.lr: {low: 0.1, high: 1, when: {moetta.lr: 1}}}", "setting in when"),
        ("trials: 5, per: [method, severity]", "is no axis of this sweep"),
        ("trials: 5, per: [stream]", "put method into it"),
        ("trials: 5, seeds: [0]", "are also reported"),
        ("trials: 5, seeds: [5, 5]", "twice"),
        ("trials: 5, select: {domains: [fog]}", "oracle: true"),
        ("trials: 5, select: {tent.lr: 1}", "not of the protocol"),
        ("trials: 5, select: {severity: 9}", "severity 9"),
        ("trials: 5, sampler: tep", "Did you mean 'tpe'"),
        ("trials: 5, sampler: {name: tpe, option: {}}", "Did you mean 'options'"),
        ("trials: 5, sampler: {name: tpe, options: {n_startup: 3}}", "Did you mean 'n_startup_trials'"),
        ("trials: 5, sampler: {name: random, options: {seed: 3}}", "takes none"),
        ("trials: 5, sampler: {name: nsgaii, options: {population_size: 1}}", "at least 2"),
        ("trials: 5, sampler: {name: nsgaii, options: {crossover_prob: 2}}", "at most 1"),
        ("trials: 5, sampler: {name: qmc, options: {qmc_type: sobl}}", "one of sobol, halton"),
        ("trials: 5, sampler: auto", "over the network"),
        ("trials: 5, sampler: grid, space: {tent.lr: spec}", "give a list, or a step"),
        ("trials: 5, objective: [accuracy, accuracy]", "twice"),
        ("trials: 5, objective: []", "give at least one"),
        ("trials: 5, objective: vote", "compares all settings"),
        ("trials: 5, objective: [accuracy, calibration_error], race: {z: 2.0}", "give race: none"),
        ("trials: 5, objective: [accuracy, calibration_error], plateau: 3", "looks at one objective"),
        ("trials: 5, objective: seconds_per_source, race: {z: 1.0}", "one steady objective"),
        ("trials: 5, constraints: [{measure: acuracy, at_most: 1}]", "Did you mean 'accuracy'"),
        ("trials: 5, constraints: [{measure: accuracy}]", "has one bound"),
        ("trials: 5, constraints: [{measure: accuracy, at_most: 1, at_least: 0}]", "has one bound"),
        ("trials: 5, ladder: [20, 10]", "that rise"),
        ("trials: 5, ladder: [75]", "give fewer"),
        ("trials: 5, ladder: [10], race: none", "needs a race"),
        ("trials: 5, objective: acuracy", "Did you mean 'accuracy'"),
        ("trials: 5, hours: 0", "greater than 0"),
        ("trials: 5, warm_start: [nowhere]", "does not exist"),
        ("trials: 5, warm_start: ['s3://name:secret@bucket/results']", "tta-grid fetch s3://... DIR"),
        ("trials: 5, storage: studies.db", "no URL of a lasting database"),
        ("trials: 5, storage: 'sqlite:///'", "no URL of a lasting database"),
        ("trials: 5, storage: 'sqlite:///:memory:'", "no URL of a lasting database"),
        ("trials: 5, space: {tent: spec}", "unknown key 'tent'. Did you mean 'tent.optimizer' or"),
        ("trials: 5, storage: 'redis://here'", "sqlite://, postgresql://"),
        ("trials: 5, scheduler: asha", "does not rank methods"),
        ("trials: 5, median: true", "does not rank methods"),
        ("trials: 5, hyperband: {}", "does not rank methods"),
        ("trials: {tent: 3}", "says nothing of moetta"),
        ("trials: 5, reported: front", "reported"),
        ("trials: 5, stop_collapsed: 3", "stop_collapsed"),
        ("trials: 5, first: [{tent.momentum: 0.5}]", "not in the space"),
        (
            "trials: 5, first: [{tent.lr: 5}], space: {tent.lr: [0.1]}",
            "tent.lr = 5, which is not in its range",
        ),
    ],
)
def test_mistakes_are_named(plan, search, said):
    with pytest.raises(InputError) as error:
        plan(search) if search != "{}" else plan("")
    assert said in str(error.value)
    assert "tuned" in str(error.value)


def test_a_searched_setting_is_no_axis(plan):
    with pytest.raises(InputError, match="is an axis of the sweep"):
        plan("trials: 5, space: {tent.lr: spec}", HEAD.replace("stream: [mixed, continual]", "tent.lr: [0.1, 0.2]"))


def test_axes_of_the_sweep_are_not_searched_unless_asked(plan):
    made = plan("trials: 5", HEAD.replace("stream: [mixed, continual]", "moetta.num_experts: [2, 3]"))
    assert [(each.method, [one.name for one in each.space]) for each in made.studies] == [
        ("tent", ["lr"]), ("moetta", ["lr", "lambda_balance"]), ("moetta", ["lr", "lambda_balance"]),
    ]  # fmt: skip


def test_an_oracle_may_choose_on_what_is_reported(plan):
    for study in plan("trials: 5, oracle: true, seeds: [0, 1]").studies:
        assert [each.cell_id() for each in study.choosing] == [each.cell_id() for each in study.points]
        assert "ORACLE" in "".join(study.lines())


SCENES = """
sweep: tuned
base:
  {benchmark: digit-scenes, backbone: segformer-scenes, preset: digit-scenes, stream: recurring-same, rounds: 2}
grid: {method: [source, tent]}
"""


@pytest.mark.parametrize("measure", [name for name, spec in OBJECTIVES.items() if not spec.of_pixels])
def test_measures_of_classes_are_refused_where_a_sweep_segments(plan, measure):
    assert plan("trials: 5, objective: entropy", SCENES).studies
    with pytest.raises(InputError, match=rf"{measure} is of samples with one class each.* give one of .*accuracy"):
        plan(f"trials: 5, objective: {measure}", SCENES)
    with pytest.raises(InputError, match=rf"{measure} is of samples with one class each"):
        plan(f"trials: 5, objective: entropy, constraints: [{{measure: {measure}, at_most: 1}}]", SCENES)


def test_samplers_whose_package_is_missing_say_what_to_install(plan, monkeypatch):
    monkeypatch.setattr("grid.plan.samplers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install cmaes"):
        plan("trials: 5, sampler: cmaes")
    monkeypatch.setattr("grid.plan.samplers.find_spec", lambda name: name)
    assert plan("trials: 5, sampler: cmaes").studies
    with pytest.raises(InputError, match="pickled objects"):
        plan("trials: 5, sampler: cmaes, storage: 'sqlite:///x.db'")


def test_options_are_those_of_optunas_samplers():
    import inspect

    import optuna.samplers as optunas

    from grid.plan.samplers import SAMPLERS

    names = [name for name in dir(optunas) if name.endswith("Sampler")]
    classes = {name.removesuffix("Sampler").lower(): getattr(optunas, name) for name in names}
    for name, options in SAMPLERS.items():
        if options:
            assert set(options) <= set(inspect.signature(classes[name]).parameters), name


def test_the_longest_cells_of_a_seed_run_first(plan):
    made = plan("trials: 5")
    order = [(config.seed, made.cost(cell)) for cell, config in made.next({}).items()]
    assert order == sorted(order, key=lambda each: (each[0], -each[1]))
    assert set(made.next({})) == set(made.cells)
    assert len({cost for _, cost in order}) > 1
