"""Turns what a cell yields into Arrow tables of the stored schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis import schema
from tta_core.backbones.table import backbone_spec
from tta_core.diagnostics.observer import Measurement
from tta_core.errors import InputError
from tta_core.run.cell import RunResult
from tta_core.run.config import RunConfig, canonical_hash

RECORDED_PACKAGES = ("ray", "tta-grid")


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in RECORDED_PACKAGES}


def result_tables(result: RunResult, *, sweep: str, git_commit: str) -> dict[str, pa.Table]:
    """The tables of a finished cell, by file name: four, `classes` of segmentation, `outputs` if the cell kept some."""
    cell = result.cell
    row = _config_columns(result.config, result.config.protocol(), sweep=sweep, git_commit=git_commit) | {
        "stream_order": result.stream_order,
        "status": schema.DONE,
        "reason": "",
        "accuracy": result.accuracy,
        "accuracy5": result.accuracy5,
        "metric": result.metric,
        "score": result.score,
        "class_accuracy": result.scores.class_accuracy,
        "n_samples": result.n_samples,
        "skipped_images": len(result.skipped),
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "peak_memory_mib": result.peak_memory_mib,
        "trainable_parameters": result.trainable_parameters,
        "layers": json.dumps(result.layers),
        "artefact": result.artefact,
        "device": result.device,
        "versions": json.dumps(result.versions | _versions()),
        "started_at": result.started_at,
    }
    scalars = {name: (s.unit, s.description) for name, s in result.config.method_spec.scalars.items()}
    no_loss = {"loss": np.full(len(result.batches["step"]), np.nan)}
    tables = {
        "cell": pa.Table.from_pylist([row], schema=schema.CELL),
        "batches": _table(cell, no_loss | result.batches, schema.batches_schema(scalars)),
        "samples": _table(cell, _plain(result.samples), schema.SAMPLES),
        "diagnostics": _diagnostics(result),
    }
    if "labelled" in result.samples:
        tables["classes"] = _table(cell, _by_class(result.samples), schema.CLASSES)
    if result.outputs:
        tables["outputs"] = _outputs(result)
    return tables


def _plain(samples: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The columns that have one value a sample and a place in the schema; empty ones where the task has none."""
    empty = [None] * len(samples["position"])
    return {name: samples.get(name, empty) for name in schema.SAMPLES.names if name != "cell"}


def _by_class(samples: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The counts of segmentation, one row for each image and class that is in it."""
    row, number = np.nonzero(samples["labelled"] + samples["predicted"])
    counts = {name: samples[name][row, number] for name in ("intersection", "predicted", "labelled")}
    return {"position": samples["position"][row], "class": number} | counts


def failure_table(config: RunConfig, reason: str, *, sweep: str, git_commit: str, started_at: datetime) -> pa.Table:
    """The one-row table of a cell that failed."""
    try:
        columns = _config_columns(config, config.protocol(), sweep=sweep, git_commit=git_commit)
    except InputError:
        # What the order is made from is missing: that may be why the cell failed.
        columns = _config_columns(config, config.protocol(with_order=False), sweep=sweep, git_commit=git_commit)
    row = columns | {
        "stream_order": "",
        "status": schema.FAILED,
        # Names of files may hold bytes that are no text.
        "reason": reason.encode("utf-8", errors="backslashreplace").decode(),
        "n_samples": 0,
        "artefact": "",
        "device": "",
        "versions": json.dumps(_versions()),
        "started_at": started_at,
    }
    return pa.Table.from_pylist([row], schema=schema.CELL)


def _config_columns(config: RunConfig, protocol: dict[str, Any], *, sweep: str, git_commit: str) -> dict[str, Any]:
    return {
        "cell": config.cell_id(),
        "sweep": sweep,
        "method": config.method,
        "preset": config.preset,
        "settings": json.dumps(config.settings),
        "backbone": config.backbone,
        "pretraining": backbone_spec(config.backbone).pretraining,
        "benchmark": config.benchmark,
        "severity": config.severity,
        "stream": config.stream,
        "samples_per_domain": config.samples_per_domain,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "fingerprint": canonical_hash(protocol),
        "protocol": json.dumps(protocol, sort_keys=True),
        "needs": schema.NEEDS_SEPARATOR.join(config.needs()),
        "scored_logits": protocol["scored_logits"],
        "config": config.model_dump_json(),
        "git_commit": git_commit,
    }


def _table(cell: str, columns: Mapping[str, Any], kind: pa.Schema) -> pa.Table:
    rows = len(next(iter(columns.values())))
    values = dict(columns) | {"cell": np.full(rows, cell)}
    unknown = set(values) - set(kind.names)
    assert not unknown, f"columns without a place in the schema: {unknown}"
    # NaN stands for a scalar that a step did not record, and becomes an empty value.
    arrays = [pa.array(values[field.name], from_pandas=True).cast(field.type) for field in kind]
    return pa.Table.from_arrays(arrays, schema=kind)


def _diagnostics(result: RunResult) -> pa.Table:
    found = [
        Measurement(quantity, value, layer=layer, item=item)
        for quantity, layers in result.diagnostics.items()
        for layer, values in layers.items()
        for item, value in enumerate(values)
    ]
    found += result.measurements
    columns = {field.name: [getattr(one, field.name) for one in found] for field in fields(Measurement)}
    return pa.Table.from_pydict(columns | {"cell": [result.cell] * len(found)}, schema=schema.DIAGNOSTICS)


def _outputs(result: RunResult) -> pa.Table:
    columns = {
        "cell": [result.cell] * len(result.outputs),
        "quantity": [one.quantity for one in result.outputs],
        "item": [one.item for one in result.outputs],
        "values": [one.values for one in result.outputs],
    }
    return pa.Table.from_pydict(columns, schema=schema.OUTPUTS)
