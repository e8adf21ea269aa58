"""Sweep files: reading, overrides, expansion."""

import copy

import pytest

from grid.plan.expand import expand
from grid.plan.sweep import apply_override, find_sweep, read_sweep, shipped_sweeps
from tta_core.errors import InputError

SMALL = """
sweep: small
base: {preset: digits-c, severity: 4}
grid:
  method: [source, tent, moetta]
  moetta.num_experts: [3, 9]
  moetta.lambda_balance: [0.0, 1.0]
seeds: [0, 1]
"""


@pytest.fixture
def sweep_file(tmp_path):
    def write(text=SMALL):
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return str(file)

    return write


def cells(file, *overrides):
    return list(expand(read_sweep(file, overrides)).cells.values())


def test_scoped_axes_multiply_only_their_methods_cells(sweep_file):
    found = cells(sweep_file())
    assert [c.method for c in found[:6]] == ["source", "tent", "moetta", "moetta", "moetta", "moetta"]
    assert [(c.settings["num_experts"], c.settings["lambda_balance"]) for c in found[2:6]] == [
        (3, 0.0),
        (3, 1.0),
        (9, 0.0),
        (9, 1.0),
    ]
    assert [c.seed for c in found] == [0] * 6 + [1] * 6


def test_one_more_seed_adds_cells_at_the_end_and_changes_none(sweep_file):
    before = list(expand(read_sweep(sweep_file())).cells)
    after = list(expand(read_sweep(sweep_file(), ["seeds=[0,1,2]"])).cells)
    assert after[: len(before)] == before
    assert len(after) == 18


VARIANTS = """
sweep: ablation
grid: {severity: [4, 5]}
variants:
  - {method: source}
  - {method: moetta}
  - {method: moetta, moetta.lambda_balance: 0}
"""


def test_each_cell_takes_one_variant(sweep_file):
    found = cells(sweep_file(VARIANTS))
    assert [(c.method, c.settings.get("lambda_balance"), c.severity) for c in found] == [
        ("source", None, 4),
        ("source", None, 5),
        ("moetta", 0.2, 4),
        ("moetta", 0.2, 5),
        ("moetta", 0.0, 4),
        ("moetta", 0.0, 5),
    ]


def test_set_fixes_a_value_in_all_variants(sweep_file):
    found = cells(sweep_file(VARIANTS), "severity=5", "moetta.lambda_balance=1")
    assert [c.settings.get("lambda_balance") for c in found] == [None, 1.0]


PROTOCOLS = """
sweep: two
base: {preset: digits-c}
grid: {method: [source, tent]}
seeds: [0, 1, 2]
protocol: small
protocols:
  small:
    base: {severity: 4, samples_per_domain: 64}
  large:
    base: {severity: 5}
    grid: {tent.lr: [0.01, 0.1]}
    exclude: [{method: source}]
    seeds: [7]
    resources: {cpu: 2}
"""


def test_the_protocol_of_the_file_is_put_in(sweep_file):
    sweep = read_sweep(sweep_file(PROTOCOLS))
    assert sweep.sweep == "two"
    assert sweep.base == {"preset": "digits-c", "severity": 4, "samples_per_domain": 64}
    assert sweep.seeds == [0, 1, 2]


def test_one_switch_changes_the_protocol_and_the_results_folder(sweep_file):
    sweep = read_sweep(sweep_file(PROTOCOLS), ["protocol=large", "severity=3"])
    assert sweep.sweep == "two-large"
    assert sweep.resources.cpu == 2
    assert [(c.method, c.severity, c.settings["lr"], c.seed) for c in expand(sweep).cells.values()] == [
        ("tent", 3, 0.01, 7),
        ("tent", 3, 0.1, 7),
    ]


def test_an_unknown_protocol_or_entry_is_named(sweep_file):
    with pytest.raises(InputError, match=r"unknown protocol 'larg'\. Did you mean 'large'\? Allowed: large, small"):
        read_sweep(sweep_file(PROTOCOLS), ["protocol=larg"])
    with pytest.raises(InputError, match=r"protocols: small: unknown key 'bse', did you mean 'base'"):
        read_sweep(sweep_file(PROTOCOLS.replace("base: {severity: 4", "bse: {severity: 4")))
    with pytest.raises(InputError, match=r"unknown protocol 'small'.*Allowed: none"):
        read_sweep(sweep_file(SMALL + "protocol: small\n"))


def test_zip_steps_axes_together(sweep_file):
    text = "sweep: z\nbase: {method: tent}\nzip: {severity: [3, 4, 5], tent.lr: [0.1, 0.2, 0.3]}\n"
    assert [(c.severity, c.settings["lr"]) for c in cells(sweep_file(text))] == [(3, 0.1), (4, 0.2), (5, 0.3)]


def test_a_zip_group_of_one_method_leaves_the_others_alone(sweep_file):
    text = (
        "sweep: z\ngrid: {method: [source, moetta]}\n"
        "zip: [{moetta.lr: [0.1, 0.2], moetta.num_experts: [2, 4]}, {severity: [4, 5]}]\n"
    )
    expansion = expand(read_sweep(sweep_file(text)))
    found = [(c.method, c.severity, c.settings.get("num_experts")) for c in expansion.cells.values()]
    assert found == [
        *[("source", 4, None), ("source", 5, None)],
        *[("moetta", 4, 2), ("moetta", 4, 4), ("moetta", 5, 2), ("moetta", 5, 4)],
    ]
    assert expansion.duplicates == 0


def test_what_is_excluded_need_not_be_allowed(sweep_file):
    text = (
        "sweep: a\nbase: {benchmark: digits-c}\ngrid: {method: [source, tent], backbone: [digits-vit-supervised, x]}\n"
    )
    with pytest.raises(InputError, match="unknown backbone 'x'"):
        cells(sweep_file(text))
    expansion = expand(read_sweep(sweep_file(text + "exclude: [{backbone: x}]\n")))
    assert (len(expansion.cells), expansion.excluded) == (2, 2)


def test_exclude_matches_all_values_of_an_entry(sweep_file):
    text = SMALL + "exclude:\n- {method: moetta, moetta.num_experts: 9, seed: 1}\n- {method: [source, tent], seed: 1}\n"
    expansion = expand(read_sweep(sweep_file(text)))
    assert expansion.excluded == 4
    assert [(c.method, c.settings.get("num_experts")) for c in expansion.cells.values() if c.seed == 1] == [
        ("moetta", 3),
        ("moetta", 3),
    ]


RATES = "sweep: a\nbase: {method: tent, preset: digits-c}\ngrid: {tent.lr: [0.001, 0.01]}\n"


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        *[(f"{{tent.lr: {value}}}", [0.01]) for value in ("1e-3", "0.001", "1E-3", "[1e-3, 0.5]", "1.0e-03")],
        *[("{tent.lr: 1e-2}", [0.001]), ("{tent.lr: 0.001, domains: reported}", [0.01])],
        *[("{tent.lr: 0.001, diagnostics: [auto]}", [0.01]), ("{tent.lr: 0.001, tent.betas: [0.9, 0.999]}", [0.01])],
        *[("{tent.lr: 0.001, crop: none}", [0.01]), ("{tent.lr: 0.001, batch_size: 64, stream: mixed}", [0.01])],
    ],
)
def test_exclude_means_what_cells_mean(sweep_file, entry, left):
    assert [cell.settings["lr"] for cell in cells(sweep_file(f"{RATES}exclude: [{entry}]\n"))] == left


@pytest.mark.parametrize(
    "entry",
    [
        *("{tent.lr: 0.1}", "{tent.lr: '1e-3'}", "{severity: 4}", "{severity: true}", "{backbone: x}", "{seed: 1}"),
        *("{moetta.num_experts: 3}", "{tent.lr: 0.001, domains: fog}", "{seed: false}", "{method: [sar, eata]}"),
    ],
)
def test_an_entry_of_exclude_that_matches_nothing_is_a_mistake(sweep_file, entry):
    with pytest.raises(
        InputError, match=r"exclude: the entry \{.*\} matches no cell, so it leaves out nothing: correct"
    ):
        cells(sweep_file(f"{RATES}exclude: [{{tent.lr: 0.001}}, {entry}]\n"))


def test_what_set_takes_away_need_not_be_excluded_any_more(sweep_file):
    file = sweep_file(f"{SMALL}exclude:\n- {{method: moetta, moetta.num_experts: 9, seed: 1}}\n")
    for change, count in (("method=tent", 2), ("seeds=[0]", 6), ("moetta.num_experts=3", 8), ("method=[moetta]", 6)):
        assert len(cells(file, change)) == count
    scoped = sweep_file(f"{SMALL}exclude: [{{moetta.num_experts: 9}}]\n")
    assert len(cells(scoped, "method=tent")) == 2
    with pytest.raises(InputError, match="matches no cell"):
        cells(sweep_file(f"{SMALL}exclude: [{{moetta.num_experts: 8}}]\n"), "severity=5")


@pytest.mark.parametrize("axis", ["[0, -0.0]", "[0, 0.0, 0e5]", "[1, 1.0, 1e0, 10e-1, 01]"])
def test_axes_that_write_one_value_twice_give_one_cell(sweep_file, axis):
    expansion = expand(read_sweep(sweep_file(), ["method=moetta", "seeds=[0]", f"moetta.lambda_balance={axis}"]))
    assert len(expansion.cells) == 2
    assert expansion.duplicates == 2 * (axis.count(",") + 1) - 2


@pytest.mark.parametrize(
    "change",
    [
        *("severity=true", "severity=on", "severity='5'", "severity=5.0", "batch_size=true", "batch_size=1e1"),
        *("seeds=[on]", "seeds=[true]", "seeds=[0.0]", "seeds=['0']", "seeds=[-1]", f"seeds=[{2**63}]"),
        *("tent.lr=true", "tent.lr=.inf", "tent.lr=.nan", "tent.lr='0.1'", "tent.lr=1:30", "tent.lr=1_0"),
        *("moetta.num_experts=3.0", "moetta.num_experts=yes", "tent.betas=[0.9]", "tent.betas=[0.9, on]"),
        *("resources.cpu=true", "resources.cpu=.inf", "resources.max_retries=1.0", "tracking.enabled=1"),
        *("tracking.enabled=yes", "tracking.experiment=3", "description=3", "samples_per_domain=0x", "backbone=3"),
    ],
)
def test_a_value_of_another_type_is_not_taken_for_it(sweep_file, change):
    with pytest.raises(InputError, match=r"is not allowed|unknown backbone"):
        cells(sweep_file(), change)


def test_numbers_are_those_of_yaml_1_2(sweep_file):
    assert cells(sweep_file(), "batch_size=010")[0].batch_size == 10
    assert cells(sweep_file(), "severity=0x5")[0].severity == 5
    assert cells(sweep_file(), "seeds=[9223372036854775807]")[0].seed == 2**63 - 1


def test_a_grid_without_end_is_refused_at_once(sweep_file):
    axes = [f"{key}={list(range(1, 200))}" for key in ("batch_size", "samples_per_domain", "data_seed")]
    with pytest.raises(InputError, match="more than 1,000,000 combinations: shorten"):
        cells(sweep_file(), *axes)


def test_equal_combinations_are_one_cell(sweep_file):
    expansion = expand(read_sweep(sweep_file(), ["preset=[recommended,paper]", "method=tent"]))
    assert len(expansion.cells) == 2
    assert expansion.duplicates == 2


def test_settings_of_a_method_can_be_fixed_in_the_base(sweep_file):
    assert (
        cells(sweep_file("sweep: b\nbase: {method: moetta, moetta.num_experts: 5, tent.lr: 0.5}\n"))[0].settings[
            "num_experts"
        ]
        == 5
    )


def test_an_override_fixes_an_axis_and_a_list_makes_one(sweep_file):
    assert {c.method for c in cells(sweep_file(), "method=tent")} == {"tent"}
    assert {c.severity for c in cells(sweep_file(), "severity=[3,5]")} == {3, 5}
    assert {c.settings["num_experts"] for c in cells(sweep_file(), "moetta.num_experts=7", "method=moetta")} == {7}
    assert {c.seed for c in cells(sweep_file(), "seeds=[5]")} == {5}
    assert read_sweep(sweep_file(), ["resources.cpu=2"]).resources.cpu == 2
    assert {c.domains for c in cells(sweep_file(), "domains=[fog,snow]")} == {("fog", "snow")}
    found = cells(sweep_file(), "diagnostics=[routing,forgetting]")
    assert {c.diagnostics for c in found} == {("forgetting", "routing")}


def test_an_override_leaves_what_it_is_given_as_it_is():
    values = {
        "sweep": "a",
        "base": {"severity": 4, "weights": {}},
        "grid": {"method": ["tent"], "tent.lr": [1]},
        "zip": [{"stream": ["mixed"], "tent.lr": [2]}],
        "variants": [{"tent.lr": 3}],
        "exclude": [{"method": "tent"}],
    }
    before = copy.deepcopy(values)
    for override in ("tent.lr=1", "method=source", "severity=[4,5]", "seeds=[1]", "resources.cpu=2", "weights.a=b"):
        assert apply_override(values, override) != before
        assert values == before


@pytest.mark.parametrize(
    "keys", [("batch_size", "first_samples"), ("tent.lr", "batch_size"), ("tent.lr", "tent.momentum")]
)
def test_millions_of_cells_are_refused_before_they_are_made(sweep_file, keys):
    axis = [number / 4096 for number in range(3000)] if "tent.lr" in keys else list(range(1, 3001))
    text = f"sweep: a\nbase: {{method: tent}}\ngrid: {{{keys[0]}: {axis}, {keys[1]}: {axis}}}\n"
    with pytest.raises(InputError, match="more than 1,000,000 combinations: shorten"):
        expand(read_sweep(str(sweep_file(text))))


def test_numbers_in_exponent_form_are_numbers(sweep_file):
    assert cells(sweep_file("sweep: n\nbase: {method: tent, tent.lr: 1e-3}\n"))[0].settings["lr"] == 0.001


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("sweep: a\nmehtod: tent\n", [], "unknown key 'mehtod'"),
        ("sweep: a\nbase: {metod: tent}\n", [], "base: unknown key 'metod'. Did you mean 'method'"),
        ("sweep: a\ngrid: {method: [tennt]}\n", [], "unknown method 'tennt'. Did you mean 'tent'"),
        ("sweep: a\ngrid: {method: []}\n", [], "axis 'method' is empty"),
        ("sweep: a\ngrid: {method: tent}\n", [], "grid.method = 'tent' is not allowed: .*list"),
        ("sweep: a\nbase: {severity: 4}\n", [], "names no method"),
        ("sweep: a\nbase: {method: tent, seed: 3}\n", [], "list 'seeds'"),
        ("sweep: a b\nbase: {method: tent}\n", [], "sweep = 'a b' is not allowed"),
        ("base: {method: tent}\n", [], "'sweep' is missing"),
        ("- tent\n", [], "a sweep is a mapping"),
        ("", [], "a sweep is a mapping"),
        ("sweep: [\n", [], "not valid YAML"),
        ("sweep: a\nseeds: [0]\nseeds: [1]\n", [], r"key 'seeds' is written twice \(line 3\)"),
        ("sweep: !!python/object/apply:os.system [ls]\n", [], "not valid YAML"),
        ("sweep: a\nbase: {method: tent}\nzip: {severity: [1, 2], batch_size: [8]}\n", [], "equal lengths"),
        ("sweep: a\nbase: {method: tent}\nresources: {cpus: 1}\n", [], "unknown key 'cpus', did you mean 'cpu'"),
        ("sweep: a\nbase: {method: tent}\nexclude: [{method: tent}]\n", [], "no cells"),
        (SMALL, ["moetta.lambda_balance=-1"], "lambda_balance = -1 is not allowed.*'moetta' in sweep 'small'"),
        (SMALL, ["moeta.lr=1"], "unknown method in the key 'moeta.lr' 'moeta'. Did you mean 'moetta'"),
        (SMALL, ["moetta.lamda_balance=1"], "Did you mean 'lambda_balance'"),
        (SMALL, ["num_experts=3"], "Did you mean .*'moase.num_experts' or .*'moetta.num_experts'"),
        (SMALL, ["severity"], "write key=value"),
        (SMALL, ["seeds=3"], "seeds = 3 is not allowed"),
        (SMALL, ["seeds.a=3"], "no named entries"),
    ],
)
def test_mistakes_are_one_clear_message(text, overrides, message, sweep_file):
    with pytest.raises(InputError, match=message):
        expand(read_sweep(sweep_file(text), overrides))


def test_a_sweep_is_found_by_path_or_by_its_shipped_name(tmp_path):
    assert find_sweep("quickstart").name == "quickstart.yaml"
    with pytest.raises(InputError, match=r"no sweep file 'quikstart'\. Did you mean the shipped sweep 'quickstart'"):
        find_sweep("quikstart")
    with pytest.raises(InputError, match="is a folder"):
        find_sweep(str(tmp_path))


def test_the_quickstart_is_what_the_readme_says():
    found = expand(read_sweep("quickstart")).cells.values()
    assert {c.method for c in found} == {"source", "tent", "moetta"}
    assert {c.seed for c in found} == {0, 1, 2}
    assert {c.stream for c in found} == {"mixed"}
    assert len(found) == 18


SHIPPED = [(row["name"], protocol) for row in shipped_sweeps() for protocol in row["protocols"] or [None]]


@pytest.mark.parametrize(("name", "protocol"), SHIPPED)
def test_shipped_sweeps_expand_under_each_of_their_protocols(name, protocol):
    found = cells(name, *([f"protocol={protocol}"] if protocol else []))
    assert {cell.benchmark in ("digits-c", "digit-scenes") for cell in found} == {protocol in (None, "embedded")}


def test_every_experiment_of_the_papers_ships_for_both_protocols():
    for row in shipped_sweeps():
        if row["name"] != "quickstart":
            assert row["protocols"] == ["embedded", "published"]


def test_weights_are_given_by_backbone(sweep_file, tmp_path):
    for name in ("one", "other"):
        (tmp_path / f"{name}.pth").write_text(name)
    text = SMALL.replace("base: {", f"base: {{weights: {{digits-vit-mae: {tmp_path}/one.pth}}, ")
    file = sweep_file(text.replace("grid:", "grid:\n  backbone: [digits-vit-supervised, digits-vit-mae]"))
    given = ["method=source", "seeds=[0]"]
    plain, own = cells(file, *given)
    assert (plain.weights, own.own_weights.file) == (None, f"{tmp_path}/one.pth")
    _, changed = cells(file, *given, f"weights.digits-vit-mae={tmp_path}/other.pth")
    assert changed.own_weights.file == f"{tmp_path}/other.pth"
    more, same = cells(file, *given, f"weights.digits-vit-supervised={tmp_path}/other.pth")
    assert (more.own_weights.file, same) == (f"{tmp_path}/other.pth", own)
    axis = cells(file, *given, f"weights=[null, {{digits-vit-mae: {tmp_path}/one.pth}}]")
    assert [cell.own_weights is not None for cell in axis] == [False, False, True]
    with pytest.raises(InputError, match=r"say for which backbone: weights: {digits-vit-supervised: a.pth}"):
        cells(file, "weights=a.pth")
