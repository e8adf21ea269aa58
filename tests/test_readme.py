"""What the README shows works as shown."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import tta_core
from grid.commands.main import main
from grid.plan.expand import expand
from grid.plan.plan import make_plan
from grid.plan.sweep import read_sweep
from grid.store.store import ResultStore
from grid.track.mlflow import MlflowMirror
from tta_core.methods.registry import methods

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_example_sweep_expands(tmp_path):
    file = tmp_path / "my-sweep.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    cells = expand(read_sweep(str(file))).cells.values()
    assert {cell.method for cell in cells} == {"source", "tent", "moetta"}
    assert len(cells) == 3 * (1 + 2 + 2) - 1


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme") / "quickstart"
    sweep = read_sweep("quickstart", ["seeds=[0]", "samples_per_domain=20", "moetta.lambda_balance=1.0"])
    store = ResultStore(folder)
    store.create()
    for config in expand(sweep).cells.values():
        store.write_result(tta_core.run(config), sweep="quickstart", git_commit="")
    with MlflowMirror(make_plan(sweep, store), store):
        pass
    return folder


def test_the_queries_run(results):
    queries = re.findall(r'tta-grid query +\S+ "(.*?)"', README)
    queries += re.findall(r'\.sql\("(.*?)"\)', README)
    assert len(queries) >= 3
    for query in queries:
        done = CliRunner().invoke(main, ["query", str(results), query])
        assert done.exit_code == 0, done.output
        assert len(done.output.splitlines()) > 2


def test_the_mlflow_filters_find_runs(results):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart").experiment_id
    filters = re.findall(r'find\("(.*?)"\)', README)
    assert len(filters) == 3
    for text in filters:
        assert client.search_runs([experiment], text), text


def test_the_table_says_how_each_method_was_checked_and_which_tables_its_presets_belong_to():
    for name, spec in methods().items():
        row = re.search(rf"^\| `{name}` \|.*\|$", README, re.MULTILINE)[0]
        checked, presets = (cell.strip() for cell in row.split("|")[-3:-1])
        assert checked == ", ".join(trace.partition(" ")[0] for trace in spec.traces)
        assert presets == ", ".join(f"`{preset}`" for preset in spec.tables)
