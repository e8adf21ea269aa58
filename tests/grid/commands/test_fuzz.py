"""Sweeps and `--set` texts made from the models themselves: a plan of what was written, or one message."""

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from grid.commands.main import main
from grid.plan.sweep import CELL_FIELDS, Protocol, Resources, Sweep, Tracking
from tta_core.methods.registry import methods
from tta_core.run.config import RunConfig

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # A failure shows as it came: shrinking it takes minutes.
)
METHODS = ("source", "tent", "sar", "lame", "moetta")

numbers = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 8, 64, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**40, -0.0, 0.5, 1e-3, 1e308, 5e-324]),
    st.integers(),
    st.floats(),
)
texts = st.one_of(
    st.sampled_from(
        ["", "auto", "none", "all", "1e-3", "010", "1:30", "on", "null", "~", "=", "a.b", "ä", "\0", "..", "/"]
    ),
    st.text(max_size=8),
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)

FITTING = {
    "method": st.sampled_from(METHODS),
    "preset": st.sampled_from(["recommended", "official", "paper", "digits-c"]),
    "backbone": st.sampled_from(["digits-vit-supervised", "digits-vit-mae", "digits-bn"]),
    "benchmark": st.just("digits-c"),
    "severity": st.integers(1, 5),
    "stream": st.sampled_from(["mixed", "continual", "gradual", "recurring", "single"]),
    "domains": st.sampled_from(["reported", "held-out", ["fog"], ["fog", "snow"]]),
    "samples_per_domain": st.integers(1, 20),
    "batch_size": st.integers(1, 2**31 - 1),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "diagnostics": st.sampled_from(["auto", "none", "all"]),
}
"""Values that a cell takes, by field; of other fields any value is tried."""


def value_of(key):
    """What is written for a key of a cell: mostly what it takes."""
    method, _, setting = key.partition(".")
    if method in METHODS and setting in methods()[method].settings.model_fields:
        default = methods()[method].settings.model_fields[setting].default
        fitting = st.sampled_from([default, *([default * 2, -default] if isinstance(default, float) else [])])
    else:
        fitting = FITTING.get(key, anything)
    return st.one_of(fitting, fitting, fitting, anything)


keys = st.one_of(
    st.sampled_from(tuple(FITTING)),
    st.sampled_from(CELL_FIELDS),
    st.sampled_from([f"{name}.{field}" for name in METHODS for field in methods()[name].settings.model_fields]),
    st.sampled_from(["seed", "seeds", "methd", "tent.", ".lr", "tent.lr.x", "weights.digits-vit-mae"]),
)
entries = keys.flatmap(lambda key: st.tuples(st.just(key), value_of(key)))
points = st.lists(entries, max_size=3).map(dict)
axes = st.lists(
    keys.flatmap(lambda key: st.tuples(st.just(key), st.lists(value_of(key), max_size=3) | value_of(key))), max_size=2
).map(dict)


def fields_of(model, own):
    """Values of a model, of its own fields and of one that it does not know."""
    names = [*model.model_fields, "other"]
    return st.lists(
        st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), own.get(name, anything) | anything)),
        max_size=3,
    ).map(dict)


parts = {
    "base": points,
    "grid": axes,
    "zip": axes | st.lists(axes, max_size=2),
    "variants": st.lists(points, max_size=2),
    "exclude": st.lists(points, max_size=2),
    "seeds": st.lists(st.integers(0, 3), min_size=1, max_size=3),
    "resources": fields_of(Resources, {"cpu": numbers, "gpu": numbers}),
    "tracking": fields_of(Tracking, {}),
}
sweeps = st.builds(
    lambda method, base, more: {"sweep": "fuzz", "base": {"method": method, "samples_per_domain": 4} | base} | more,
    FITTING["method"],
    points,
    fields_of(Sweep, parts | {"protocols": st.dictionaries(texts, fields_of(Protocol, parts), max_size=2)}),
)
overrides = st.one_of(
    entries.map(lambda entry: f"{entry[0]}={written(entry[1])}"),
    st.sampled_from([*Sweep.model_fields]).flatmap(
        lambda name: (parts.get(name, anything) | anything).map(lambda value: f"{name}={written(value)}")
    ),
    st.text(max_size=20),
    st.sampled_from(["a=[1", "seeds={", "tent.lr=&a [*a]", "=1", "seeds", "grid.=1", "grid.x.y=[1]", "a=!!set {}"]),
)


def written(value):
    """A value in YAML's flow style, as a user could type it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(str(key))}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Calls the command; returns what it printed if all went well, None after one message."""
    folder = tmp_path_factory.mktemp("fuzz")

    def call(*arguments):
        done = CliRunner().invoke(main, [*arguments, "--results", str(folder / "none")])
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
        assert done.exit_code in (0, 2), done.output
        assert "Traceback" not in done.output
        if done.exit_code == 0:
            return json.loads(done.output)
        assert done.output.count("Error: ") == 1, done.output
        assert len(done.output.partition("Error: ")[2].strip()) > 10, done.output
        return None

    return call


def same(written_value, value):
    """Equal, and of one type but for integers that stand for other numbers, and lists for tuples."""
    if isinstance(written_value, bool) or isinstance(value, bool):
        return written_value is value
    if isinstance(written_value, list | tuple):
        return len(written_value) == len(value) and all(map(same, written_value, value))
    return written_value == value


def assert_runs_as_written(plan, sweep):
    """The cells of a plan are those of a sweep whose values it does not resolve to others."""
    for told_cell in plan["cells"]:
        config = told_cell["config"]
        assert RunConfig.from_values(config).cell_id() == told_cell["cell"]
        assert config["seed"] in sweep.get("seeds", [0])
        axes = [sweep.get("base", {}), *sweep.get("variants", []), sweep.get("grid", {})]
        zipped = sweep.get("zip", [])
        elsewhere = {key for part in (*axes[1:], *([zipped] if isinstance(zipped, dict) else zipped)) for key in part}
        for key, value in sweep.get("base", {}).items():
            method, _, setting = key.partition(".")
            if key in elsewhere or value is None:
                continue
            if setting and method == config["method"]:
                assert same(value, config["settings"][setting]), (key, value, config)
            elif key in ("method", "preset", "backbone", "benchmark", "stream", "batch_size", "precision", "data_seed"):
                assert same(value, config[key]), (key, value, config)


@FUZZ
@given(sweeps)
def test_a_sweep_is_planned_as_it_is_written_or_refused(told, tmp_path_factory, sweep):
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(written(sweep), encoding="utf-8")
    plan = told("plan", str(file), "--json")
    if plan is not None and not sweep.get("protocols"):
        assert_runs_as_written(plan, sweep)


@FUZZ
@given(st.lists(overrides, min_size=1, max_size=3))
def test_a_set_is_taken_as_it_is_written_or_refused(told, tmp_path_factory, changes):
    file = tmp_path_factory.getbasetemp() / "base.yaml"
    file.write_text("{sweep: a, base: {method: tent, samples_per_domain: 4}, exclude: [{seed: 99}], seeds: [0, 99]}")
    told("plan", str(file), "--json", *(part for change in changes for part in ("--set", change)))


@FUZZ
@given(keys.flatmap(lambda key: st.tuples(st.just(key), value_of(key))))
def test_a_value_means_the_same_in_a_file_and_in_a_set(told, tmp_path_factory, entry):
    key, value = entry
    folder = tmp_path_factory.getbasetemp()
    base = {"method": "tent", "samples_per_domain": 4}
    for name, values in (("bare", base), ("file", base | {key: value})):
        (folder / f"{name}.yaml").write_text(written({"sweep": "a", "base": values}), encoding="utf-8")
    inside = told("plan", str(folder / "file.yaml"), "--json")
    assert told("plan", str(folder / "bare.yaml"), "--json", "--set", f"base.{key}={written(value)}") == inside
