"""What MLflow is told about one cell, read from the store. Imports no mlflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from analysis.schema import MIOU
from grid.store.samples import stored_samples
from grid.store.store import ResultStore
from tta_core.tasks.table import TASKS

MAX_POINTS = 200
"""Points of a curve: MLflow's stores slow down with every one, the Parquet files hold them all."""

TAGS = (
    *("cell", "sweep", "method", "preset", "backbone", "pretraining", "benchmark", "stream", "seed"),
    *("fingerprint", "stream_order", "status", "reason", "device", "git_commit", "versions"),
    *("needs", "artefact", "scored_logits"),
)
FINAL_METRICS = ("accuracy", "accuracy5", "seconds", "images_per_second", "peak_memory_mib", "trainable_parameters")
PIXEL_METRICS = ("score", "class_accuracy")
"""Metrics of cells of segmentation; of others the score is the accuracy."""
SKIPPED = "skipped_images"
"""A metric of those cells that left images out."""


@dataclass(frozen=True)
class TrackedCell:
    """One cell for MLflow.

    Attributes:
        status: `done` or `failed`.
        tags, params: texts; a method's settings are params named `method.setting`, as in a sweep file.
        metrics: (key, value, samples seen).
        artefacts: file name -> JSON content.
        files: files of the store to attach.
        started_ms, ended_ms: ms since the epoch.
        n_samples: samples in the stream.
    """

    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[tuple[str, float, int]]
    artefacts: dict[str, dict[str, Any]]
    files: list[Path]
    started_ms: int
    ended_ms: int
    n_samples: int

    def timestamp_ms(self, samples_seen: int) -> int:
        """When that many samples had been seen, in ms since the epoch, if the loop kept a steady pace."""
        return self.started_ms + round((self.ended_ms - self.started_ms) * samples_seen / max(1, self.n_samples))


def read_tracked_cell(store: ResultStore, cell: str) -> TrackedCell:
    """Reads a cell of the store, finished or failed."""
    folder = store.entry_folder(cell)
    row = pq.read_table(folder / "cell.parquet", page_checksum_verification=True).to_pylist()[0]
    config: dict[str, Any] = json.loads(row["config"])
    settings = {f"{row['method']}.{name}": value for name, value in config.pop("settings").items()}
    metrics = [(name, float(row[name]), row["n_samples"]) for name in FINAL_METRICS if row[name] is not None]
    pixels = row.get("metric") == MIOU
    if pixels:
        metrics += [(name, float(row[name]), row["n_samples"]) for name in PIXEL_METRICS if row[name] is not None]
    if row.get(SKIPPED):
        metrics.append((SKIPPED, float(row[SKIPPED]), row["n_samples"]))
    artefacts: dict[str, dict[str, Any]] = {"config.json": json.loads(row["config"])}
    if row["status"] == "done":
        word = row.get("metric") or "accuracy"
        domains, curves = _read_curves(folder, pixels=pixels)
        metrics += [(f"{word}/{name}", value, row["n_samples"]) for name, value in domains.items()] + curves
        artefacts[f"domain_{word}.json"] = domains
    started = round(row["started_at"].timestamp() * 1000)
    return TrackedCell(
        status=row["status"],
        # Files of older versions lack columns.
        tags={name: str(row[name]) for name in TAGS if row.get(name) is not None},
        params={name: str(value) for name, value in (config | settings).items()},
        metrics=metrics,
        artefacts=artefacts,
        files=sorted([*folder.glob("batches.parquet"), *folder.glob("diagnostics.parquet"), *folder.glob("*.txt")]),
        started_ms=started,
        ended_ms=started + round(1000 * (row["seconds"] or 0)),
        n_samples=row["n_samples"],
    )


def _read_curves(folder: Path, *, pixels: bool) -> tuple[dict[str, float], list[tuple[str, float, int]]]:
    """Score by domain, and each step's scalars with the accuracy so far, thinned to `MAX_POINTS`."""
    samples = stored_samples(folder)
    task = TASKS["segmentation" if pixels else "classification"]
    domains = {name: scores.score for name, scores in task.scores_by_domain(samples).items()}
    batches = pq.read_table(folder / "batches.parquet")
    seen = batches["samples_seen"].to_numpy()
    kept = np.unique(np.linspace(0, len(seen) - 1, min(MAX_POINTS, len(seen))).round().astype(int))
    columns = {name: batches[name].to_numpy() for name in batches.column_names if name not in ("cell", "step")}
    # Before the first image that was not skipped there is none.
    if pixels:
        right, all_pixels = (np.cumsum(samples[name].sum(axis=1)) for name in ("intersection", "labelled"))
    else:
        right = np.cumsum(samples["label"] == samples["prediction"])
        all_pixels = np.arange(1, len(right) + 1)
    columns["accuracy_so_far"] = np.where(seen > 0, right[seen - 1] / np.maximum(all_pixels[seen - 1], 1), np.nan)
    del columns["samples_seen"]
    curves = [
        (name, float(values[step]), int(seen[step]))
        for name, values in columns.items()
        for step in kept
        if np.isfinite(values[step])
    ]
    return domains, curves
