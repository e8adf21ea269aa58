"""MLflow: a run a study, cells that only chose in an experiment of their own, each once."""

from mlflow.tracking import MlflowClient

from grid.events import CellEnd
from grid.track.mlflow import MlflowMirror


def test_studies_have_runs_and_choosing_cells_an_experiment(driver):
    few = ["search.trials=3", "search.seeds=[1000]"]
    for stop in (2, None):
        done = driver(folder="tracked", overrides=few)
        with MlflowMirror(done.plan, done.store, source=done.search) as mirror:
            done.run(stop_after=stop)
            for cell in done.ran:
                mirror.cell_ended(cell, CellEnd("done"))
        assert mirror.problem is None
    client = MlflowClient(tracking_uri=mirror.uri)
    names = {name: client.get_experiment_by_name(name).experiment_id for name in ("tuned", "tuned/search")}
    found = {name: client.search_runs([number]) for name, number in names.items()}
    cells = {name: [run.data.tags["cell"] for run in runs if "cell" in run.data.tags] for name, runs in found.items()}
    assert sorted(cells["tuned"]) == sorted(done.search.cells)
    (study,) = done.search.studies
    tried = {each.cell for trial in study.trials for each, _ in trial.seen}
    assert sorted(cells["tuned/search"]) == sorted(tried | set(study.plan.all_references))
    (run,) = [run for run in found["tuned"] if run.data.tags.get("kind") == "study"]
    assert run.data.tags["study"] == study.plan.name
    steps = client.get_metric_history(run.info.run_id, "value")
    assert sorted((one.step, one.value) for one in steps) == [(trial.number, trial.value) for trial in study.trials]
