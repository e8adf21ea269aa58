"""What people write by mistake: each is refused in one message that names it and says what is allowed."""

import pytest
from click.testing import CliRunner

from grid.commands.main import main

BASE = "sweep: a\nbase: {method: tent, samples_per_domain: 4}\n"
SEARCH = f"{BASE}search: {{trials: 2, "

BAD = {
    # What was read: names of YAML 1.1, numbers that no number can be.
    "base:\n  <<: {method: tent}": "no merge key",
    f"seeds: [0x{'f' * 5000}]": "cannot be read as int",
    "seeds: [1_000]": "seeds.0 = '1_000' is not allowed: input should be a valid integer",
    "seeds: [2026-11-28]": "seeds.0 = '2026-11-28'",
    # What would have meant everything, or nothing.
    "domains: []": "domains = []: give names",
    'subset_file: ""': "subset_file = '' is no path",
    "order_file: 0": "order_file = 0 is no path",
    "zip: [{tent.lr: [1]}, {tent.lr: [2]}]": "tent.lr is an axis twice",
    "grid: {tent.lr: [1]}\nzip: {tent.lr: [2]}": "tent.lr is an axis twice",
    "protocols: 0": "protocols = 0 is not allowed: give a mapping",
    "protocols: {a: null}\nprotocol: a": "protocols: a = None is not allowed: give a mapping",
    "protocols: {1: {}, a: {}}\nprotocol: 1": "unknown protocol 1. Did you mean '1'?",
    "base: 0\nprotocols: {a: {base: {method: tent}}}\nprotocol: a": "base = 0 is not allowed: give a mapping",
    f"sweep: {'a' * 101}": "at most 100 characters",
    # Where cells run.
    "resources: {device: gpu}": "device = 'gpu' is not allowed",
    "resources: {device: meta}": "device = 'meta' is not allowed",
    "resources: {device: ''}": "device = '' is not allowed",
    "resources: {device: 'cuda:x'}": "device = 'cuda:x' is not allowed",
    "resources: {gpu: 1.5}": "gpu = 1.5 is not allowed: give a whole number",
    "resources: {gpu: 0.00001}": "gpu = 1e-05 is not allowed: give a whole number",
    "resources: 3": "resources = 3 is not allowed: input should be a valid dictionary\n",
    "tracking: {uri: ''}": "uri = '' is not allowed",
    "tracking: {experiment: ''}": "experiment = '' is not allowed",
    # Searches: no names of the library's types, no bound left out.
    "search: {trials: 0}": "trials = 0 is not allowed: input should be greater than or equal to 1, or a valid dict",
    "search: {trials: 2147483648}": "trials = 2147483648 is not allowed",
    "search: {trials: 2, race: {z: -1}}": "race.z = -1 is not allowed: input should be greater than or equal to 0",
    "search: {trials: 2, ahead: 99999999999}": "ahead = 99999999999 is not allowed",
    "search: {trials: 2, first: [3]}": "first.0 = 3 is not allowed",
    "search: {trials: 2, first: [{lr: 1}]}": "first: entry 0 has 'lr': give method.setting",
    "search: {trials: 2, first: [{sar.lr: 1}]}": "first: entry 0 has 'sar.lr': give method.setting",
    "search: {trials: 2, first: [{}]}": "first: entry 0 is empty",
}


@pytest.mark.parametrize("written", BAD)
def test_a_bad_value_is_refused_in_one_message(tmp_path, written):
    key = written.partition(":")[0]
    base = "".join(line for line in BASE.splitlines(keepends=True) if line.partition(":")[0] != key)
    if key in ("domains", "subset_file", "order_file"):
        base, written_here = base.replace("{", f"{{{written}, "), ""
    else:
        written_here = written
    (tmp_path / "a.yaml").write_text(f"{base}{written_here}\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "a.yaml"), "--results", str(tmp_path / "none")])
    assert done.exit_code == 2, done.output
    assert BAD[written] in done.output
    assert done.output.count("Error: ") == 1
    assert len(done.output) < 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", ""], "what follows run is empty: give a value"),
        (["plan", "quickstart", "--results", ""], "what follows --results is empty: give a value, or leave it out"),
        (["plan", "quickstart", "--results="], "what follows --results= is empty"),
        (["run", "quickstart", "--tracking-uri", ""], "what follows --tracking-uri is empty"),
        (["plan", "quickstart", "--simulate", "nan"], "'nan' is no finite number"),
        (["plan", "quickstart", "--simulate", "2", "--failures", "nan"], "'nan' is no finite number"),
        (["plan", "quickstart", "--price", "inf"], "'inf' is no finite number"),
        (["run", "quickstart", "--wait", "nan"], "'nan' is no finite number"),
        (["data", "check-backbone", "digits-bn", "--tolerance", "inf"], "'inf' is no finite number"),
    ],
)
def test_an_option_that_is_empty_or_no_number_is_refused(arguments, message):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert message in done.output
