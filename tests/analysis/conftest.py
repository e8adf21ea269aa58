"""Synthetic results, small enough to be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.results.damage import store_entry

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def measurement(quantity: str, value: float, **place: Any) -> dict[str, Any]:
    """A row of `diagnostics` without its cell; `place` is any of step, layer, domain, against, item."""
    nowhere = {"step": None, "layer": "", "domain": "", "against": "", "item": 0}
    return {"quantity": quantity, "value": value} | nowhere | place


class ResultsFolder:
    """Writes cells as `grid` does; every value can be overridden, to write wrong ones too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (schema.CELLS_FOLDER, schema.FAILED_FOLDER):
            (folder / name).mkdir(parents=True)
        (folder / schema.STORE_FILE).write_text(json.dumps(store_entry("ab12")))
        self.written = 0

    def add(
        self,
        method: str,
        seed: int = 0,
        hits: Sequence[int] = (1, 0),
        *,
        settings: dict[str, Any] | None = None,
        domains: Sequence[str] | None = None,
        protocol: dict[str, Any] | None = None,
        usage: dict[str, Sequence[float]] | None = None,
        measured: Sequence[Mapping[str, Any]] = (),
        scalars: Mapping[str, Sequence[float | None]] | None = None,
        steps: int = 1,
        positions: Sequence[int] | None = None,
        segments: Sequence[int] | None = None,
        folder: str | None = None,
        **overrides: Any,
    ) -> Path:
        """Writes a finished cell with one sample for each of `hits`, and returns its folder.

        Args:
            method, seed, settings, protocol: of the cell.
            hits: for each sample, whether its prediction is right.
            domains, positions, segments: of each sample.
            usage: layer -> share of each expert.
            measured: further rows of `diagnostics`; columns that are left out are empty or 0, see `measurement`.
            scalars: name -> value at each step, equally long.
            steps: batches; as many as the scalars have values, if there are any.
            folder: name of the folder, if it is not the cell's id.
            overrides: columns of `cells`.
        """
        row = self._row(method, seed, settings or {}, protocol or {}, len(hits))
        row |= {"status": schema.DONE, "accuracy": sum(hits) / len(hits), "accuracy5": 1.0, "seconds": 2.0}
        row |= {"images_per_second": len(hits) / 2.0, "peak_memory_mib": 100.0, "trainable_parameters": 1000}
        row |= overrides
        cell, n = row["cell"], len(hits)
        target = self.folder / schema.CELLS_FOLDER / (folder or cell)
        target.mkdir()
        pq.write_table(pa.Table.from_pylist([row], schema=schema.CELL), target / "cell.parquet")
        curves = scalars or {}
        steps = max(map(len, curves.values()), default=steps)
        batches = [
            {"cell": cell, "step": step, "samples_seen": n * (step + 1) // steps, "loss": None, "selected": n // steps}
            | {name: values[step] for name, values in curves.items()}
            for step in range(steps)
        ]
        columns = schema.batches_schema({name: ("nat", f"meaning of {name}") for name in curves})
        pq.write_table(pa.Table.from_pylist(batches, schema=columns), target / "batches.parquet")
        samples = [
            {
                "cell": cell,
                "position": positions[i] if positions else i,
                "domain": domains[i] if domains else "fog",
                "index": i,
                "label": 1,
                "prediction": int(hit),
                "confidence": 0.75,
                "entropy": 0.5,
                "segment": segments[i] if segments else 0,
            }
            for i, hit in enumerate(hits)
        ]
        pq.write_table(pa.Table.from_pylist(samples, schema=schema.SAMPLES), target / "samples.parquet")
        shares = [
            measurement("expert_usage", value, layer=layer, item=item)
            for layer, values in (usage or {}).items()
            for item, value in enumerate(values)
        ]
        diagnostics = [{"cell": cell} | dict(row) for row in (*shares, *measured)]
        pq.write_table(pa.Table.from_pylist(diagnostics, schema=schema.DIAGNOSTICS), target / "diagnostics.parquet")
        return target

    def fail(
        self,
        method: str,
        seed: int = 0,
        reason: str = "boom",
        *,
        settings: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> Path:
        """Writes a failed cell and returns its folder."""
        row = self._row(method, seed, settings or {}, {}, 2)
        row |= dict.fromkeys(("accuracy", "accuracy5", "seconds", "images_per_second", "peak_memory_mib"))
        row |= {
            "trainable_parameters": None,
            "skipped_images": None,
            "status": schema.FAILED,
            "reason": reason,
        } | overrides
        target = self.folder / schema.FAILED_FOLDER / row["cell"]
        target.mkdir()
        pq.write_table(pa.Table.from_pylist([row], schema=schema.CELL), target / "cell.parquet")
        return target

    def _row(
        self, method: str, seed: int, settings: dict[str, Any], protocol: dict[str, Any], n_samples: int
    ) -> dict[str, Any]:
        self.written += 1
        stated = {"benchmark": "digits-c v1", "severity": 5, "stream": "mixed", "domains": ["snow", "fog"]} | protocol
        scored = stated.get("scored_logits", "pre-update")
        name = "-".join(
            [method, *(f"{key}{value}" for key, value in settings.items()), str(stated["stream"]), str(seed)]
        )
        return {
            "cell": name,
            "sweep": "quickstart",
            "method": method,
            "preset": "recommended",
            "settings": json.dumps(settings),
            "backbone": "digits-vit",
            "pretraining": "supervised",
            "benchmark": "digits-c",
            "severity": 5,
            "stream": stated["stream"],
            "stream_order": f"order-{stated['stream']}-{seed}",
            "samples_per_domain": 1,
            "batch_size": 64,
            "seed": seed,
            "fingerprint": f"print-{stated['stream']}" + ("" if scored == "pre-update" else f"-{scored}"),
            "protocol": json.dumps(stated),
            "config": "{}",
            "reason": "",
            "n_samples": n_samples,
            "skipped_images": 0,
            "needs": "",
            "artefact": "",
            "scored_logits": scored,
            "device": "cpu",
            "versions": json.dumps({"python": "3.11.9"}),
            "git_commit": "abc123",
            "started_at": START + timedelta(seconds=self.written),
        }


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """An empty results folder."""
    return ResultsFolder(tmp_path / "results")


@pytest.fixture
def quickstart(results: ResultsFolder) -> ResultsFolder:
    """Source, tent and two moetta, two seeds of ten samples each.

    Accuracies at seeds 0 and 1: source 0.5, 0.6; tent 0.4, 0.4; moetta 9 experts 0.8, 0.7; 5 experts 0.6, 0.6.
    """
    counts = {("source", 0): (5, 6), ("tent", 0): (4, 4), ("moetta", 9): (8, 7), ("moetta", 5): (6, 6)}
    for (method, experts), hits in counts.items():
        for seed, count in enumerate(hits):
            results.add(
                method,
                seed,
                [1] * count + [0] * (10 - count),
                settings={"num_experts": experts, "lr": 0.1} if experts else {},
                domains=["snow"] * 5 + ["fog"] * 5,
                usage={"blocks.0.norm1": [1.0, 0.0] if seed else [0.25, 0.75]} if experts else None,
                scalars={"threshold": [0.5]} if experts else None,
                seconds=6.0 if experts else 2.0,
            )
    return results
