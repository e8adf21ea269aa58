"""What MLflow is told about the studies of a sweep: one run a study, whose charts are its history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from analysis import schema
from grid.store.store import ResultStore

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LOGGED = "trials_logged"
"""Tag of a study's run: how many of its trials are in it, so that the next launch logs those after."""

RUN_STATUS = {"open": "KILLED", "failed": "FAILED"}


def log_studies(client: MlflowClient, experiment: str, store: ResultStore, sweep: str, parent: str) -> None:
    """Logs the trials that the studies of a sweep have and MLflow lacks.

    Args:
        client: of the tracking store.
        experiment: id of the experiment.
        store: the results folder.
        sweep: name of the sweep.
        parent: id of the launch's run.
    """
    for file in sorted((store.folder / schema.SEARCH_FOLDER).glob("*/study.parquet")):
        row = pq.read_table(file).to_pylist()[0]
        if row["sweep"] == sweep and row["state"] != schema.SUPERSEDED:
            _log(client, experiment, store, row, pq.read_table(file.with_name("trials.parquet")).to_pylist(), parent)


def _log(
    client: MlflowClient,
    experiment: str,
    store: ResultStore,
    row: Mapping[str, Any],
    trials: list[dict[str, Any]],
    parent: str,
) -> None:
    from mlflow.entities import Metric, Param

    told = _told(trials)
    found = client.search_runs([experiment], f"tags.study = '{row['study']}' and tags.store = '{store.id}'")
    definition = json.loads(row["definition"])
    if found:
        run, logged = found[0], int(found[0].data.tags.get(LOGGED, 0))
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        tags = {"kind": "study", "study": row["study"], "method": row["method"], "store": store.id}
        tags |= {"sweep": row["sweep"], "mlflow.parentRunId": parent, "mlflow.runName": row["study"]}
        run, logged = client.create_run(experiment, tags=tags), 0
        params = {key: json.dumps(definition[key]) for key in ("space", "sampler", "seeds", "objective", "race")}
        client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
        client.log_dict(run.info.run_id, definition, "study.json")
    better = max if row["maximise"] else min
    metrics, best, cells = [], list[float](), 0
    for trial in told:
        cells += trial["cells"]
        when = round(trial["ended_at"].timestamp() * 1000)
        values = {"cells_used": float(cells)}
        if trial["state"] == "complete":
            best = [better([*best, trial["value"]])]
        if trial["value"] is not None and trial["state"] != "failed":
            values |= {"value": trial["value"], **json.loads(trial["measures"])}
        values |= {"best_value": best[0]} if best else {}
        if trial["trial"] >= logged:
            metrics += [Metric(name, value, when, trial["trial"]) for name, value in values.items()]
    client.log_batch(run.info.run_id, metrics=metrics)
    client.set_tag(run.info.run_id, LOGGED, str(len(told)))
    client.log_dict(run.info.run_id, {"trials": json.loads(json.dumps(told, default=str))}, "trials.json")
    client.set_terminated(run.info.run_id, RUN_STATUS.get(row["state"], "FINISHED"))


def _told(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials up to the first that has not ended. Those after it wait, so that a count says which are logged."""
    ended = {trial["trial"]: trial for trial in trials if trial["ended_at"] is not None}
    return [ended[number] for number in takewhile(ended.__contains__, count())]
