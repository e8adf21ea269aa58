"""Columns, types, units and version of the result files: the contract between `grid` and `analysis`.

The words in the files, such as quantities of diagnostics, are in `analysis.vocabulary`.

A results folder holds one folder per finished cell and one per failed cell::

    RESULTS/cells/<cell>/{cell,batches,samples,diagnostics}.parquet, of segmentation classes.parquet,
                         and outputs.parquet if the cell kept outputs
    RESULTS/failed/<cell>/cell.parquet
    RESULTS/store.json

A cell's folder appears by one rename, so it is either complete or absent. Each field carries its unit and meaning as
field metadata, each file the schema version as schema metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

SCHEMA_VERSION = 4
VERSION_KEY = b"tta_grid_schema_version"

CELLS_FOLDER = "cells"
FAILED_FOLDER = "failed"

STORE_FILE = "store.json"
LAYOUT = 1
"""Version of the layout, which `STORE_FILE` states: where files lie. A folder of older versions may lack the file."""

MANIFEST = "manifest.json"
"""In a cell's folder: the cell's id, and size and SHA-256 of each of its files. Cells of before have none."""

DONE = "done"
FAILED = "failed"

NEEDS_SEPARATOR = ", "
"""Between the names in the column `needs` of `cells`."""


def _field(name: str, kind: pa.DataType, unit: str, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "meaning": meaning})


_TEXT = pa.string()
_VERSION_METADATA = {VERSION_KEY: str(SCHEMA_VERSION).encode()}

CELL = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id: method and a hash of everything that can change the result"),
        _field("sweep", _TEXT, "", "name of the sweep that ran the cell"),
        _field("method", _TEXT, "", "test-time adaptation method"),
        _field("preset", _TEXT, "", "named settings that the cell started from"),
        _field("settings", _TEXT, "JSON", "all settings of the method, resolved"),
        _field("backbone", _TEXT, "", "network and weights"),
        _field("pretraining", _TEXT, "", "how the weights were made: supervised, mae, clip, text-prototype"),
        _field("benchmark", _TEXT, "", "benchmark"),
        _field("severity", pa.int32(), "1-5", "corruption strength; 0 where images are not corrupted"),
        _field("stream", _TEXT, "", "order in which samples arrive"),
        _field("stream_order", _TEXT, "", "hash of the very order of this cell's samples"),
        _field("samples_per_domain", pa.int32(), "images", "images taken from each domain"),
        _field("batch_size", pa.int32(), "images", "images in a full batch"),
        _field("seed", pa.int64(), "", "seed of the stream order and of the method"),
        _field("fingerprint", _TEXT, "", "hash of `protocol`: cells may be compared only where it agrees"),
        _field("protocol", _TEXT, "JSON", "what makes results comparable"),
        _field("config", _TEXT, "JSON", "the whole configuration of the cell"),
        _field("status", _TEXT, "", "done or failed"),
        _field("reason", _TEXT, "", "why the cell failed; empty if it did not"),
        _field(
            "accuracy",
            pa.float64(),
            "[0, 1]",
            "top-1 accuracy over all samples of the stream that were not skipped; of segmentation of pixels",
            nullable=True,
        ),
        _field(
            "accuracy5",
            pa.float64(),
            "[0, 1]",
            "top-5 accuracy over all samples of the stream that were not skipped; empty of segmentation",
            nullable=True,
        ),
        _field("metric", _TEXT, "", "what the score is: accuracy or miou", nullable=True),
        _field(
            "score",
            pa.float64(),
            "[0, 1]",
            "what tables show: the accuracy; or mean IoU, the mean over the segments of the stream",
            nullable=True,
        ),
        _field(
            "class_accuracy",
            pa.float64(),
            "[0, 1]",
            "of segmentation: mean over classes of the share of pixels that are right, mean over segments",
            nullable=True,
        ),
        _field("n_samples", pa.int64(), "images", "samples in the stream, also skipped ones"),
        _field(
            "skipped_images",
            pa.int64(),
            "images",
            "samples of the stream whose images are damaged and were left out: no other number counts them",
            nullable=True,
        ),
        _field("seconds", pa.float64(), "s", "wall time of the online loop, without loading", nullable=True),
        _field("images_per_second", pa.float64(), "1/s", "n_samples / seconds", nullable=True),
        _field(
            "peak_memory_mib",
            pa.float64(),
            "MiB",
            "peak during the loop: resident memory of the process on CPU, allocated memory on a GPU",
            nullable=True,
        ),
        _field("trainable_parameters", pa.int64(), "1", "numbers that the method updates", nullable=True),
        _field(
            "layers",
            _TEXT,
            "JSON",
            "by kind how many layers the network has (found), the method trains or replaces (taken) and leaves (left)",
            nullable=True,
        ),
        _field(
            "needs",
            _TEXT,
            "",
            "what the method needs beyond the stream with its settings, by commas; empty text if nothing",
            nullable=True,
        ),
        _field(
            "artefact",
            _TEXT,
            "",
            "hash of what the method prepared of it before the stream; empty text if nothing",
            nullable=True,
        ),
        _field(
            "scored_logits",
            _TEXT,
            "",
            "which logits are scored: pre-update, perturbed, post-update; as in `protocol`",
            nullable=True,
        ),
        _field("device", _TEXT, "", "device that ran the cell"),
        _field("versions", _TEXT, "JSON", "versions of Python and of the packages that computed the result"),
        _field("git_commit", _TEXT, "", "commit of this project; ends in -dirty if files were changed; may be empty"),
        _field("started_at", pa.timestamp("us", tz="UTC"), "UTC", "when the cell started"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a cell. Nullable columns are empty for failed cells, and where an older version wrote the file: versions up
to 2 have no `needs`, `artefact` and `scored_logits`, early files of version 3 no `skipped_images` and no `layers`, and
up to 3 there is no `metric`, `score` and `class_accuracy`: the view `cells` then has the accuracy as score.
"""

BATCHES = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id"),
        _field("step", pa.int32(), "batches", "number of the batch in the stream, from 0"),
        _field("samples_seen", pa.int64(), "images", "samples seen including this batch"),
        _field("loss", pa.float64(), "nat", "loss of the update on this batch; empty if there was none", nullable=True),
        _field("selected", pa.int32(), "images", "samples of the batch that entered the loss"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a batch; each method adds its own scalars as further float64 columns (see `batches_schema`)."""

SAMPLES = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id"),
        _field("position", pa.int64(), "images", "place in the stream, from 0"),
        _field("domain", _TEXT, "", "domain of the image"),
        _field("index", pa.int32(), "", "number of the image in its domain"),
        _field("label", pa.int32(), "", "true class; empty of segmentation", nullable=True),
        _field(
            "prediction",
            pa.int32(),
            "",
            "predicted class, from the scored logits; empty of segmentation",
            nullable=True,
        ),
        _field("confidence", pa.float32(), "[0, 1]", "largest softmax probability; of segmentation the mean of pixels"),
        _field("entropy", pa.float32(), "nat", "entropy of the softmax; of segmentation the mean of pixels"),
        _field("segment", pa.int32(), "", "stretch of the stream between two borders, from 0"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a sample, in stream order; positions of skipped images have none."""

DIAGNOSTICS = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id"),
        _field("quantity", _TEXT, "", "what was measured, such as expert_usage"),
        _field("step", pa.int32(), "batches", "batch after which it was measured; empty: whole stream", nullable=True),
        _field("layer", _TEXT, "", "module that it was measured in; empty if it is of the whole network"),
        _field("domain", _TEXT, "", "domain that it belongs to; empty if it is of all"),
        _field("against", _TEXT, "", "second domain, of a matrix of domains; empty otherwise"),
        _field("item", pa.int32(), "", "number of the expert, component, bin, ...; 0 for a scalar"),
        _field("value", pa.float64(), "1", "the value"),
    ],
    metadata=_VERSION_METADATA,
)
"""What was measured beside the outcome of each sample and the scalars of each step."""

OUTPUTS = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id"),
        _field("quantity", _TEXT, "", "mean or gram of the probabilities of the stream, or those of a sample"),
        _field("item", pa.int64(), "", "class of a row of gram; place in the stream of a sample; 0 of the mean"),
        _field("values", pa.list_(pa.float64()), "1", "one value a class"),
    ],
    metadata=_VERSION_METADATA,
)
"""What the observer `outputs` kept. The file is missing where it did not watch."""

CLASSES = pa.schema(
    [
        _field("cell", _TEXT, "", "cell id"),
        _field("position", pa.int64(), "images", "place in the stream, from 0"),
        _field("class", pa.int32(), "", "the class"),
        _field("intersection", pa.int64(), "pixels", "pixels that are labelled and predicted so"),
        _field("predicted", pa.int64(), "pixels", "pixels that are predicted so, where there is a label"),
        _field("labelled", pa.int64(), "pixels", "pixels that are labelled so"),
    ],
    metadata=_VERSION_METADATA,
)
"""Of segmentation: one row for each image and class that is labelled or predicted in it."""

FILES: Mapping[str, pa.Schema] = {
    "cell": CELL,
    "batches": BATCHES,
    "samples": SAMPLES,
    "diagnostics": DIAGNOSTICS,
    "outputs": OUTPUTS,
    "classes": CLASSES,
}
"""File name (without `.parquet`) in a finished cell's folder -> schema."""

OPTIONAL_FILES = ("outputs", "classes")
"""Those of them that a cell may lack: `outputs` if nobody asked for it, `classes` if its task has none."""


PICTURE = "picture-"
"""What the names of pictures in a finished cell's folder begin with."""
TILES = ("input", "label", "source", "adapted", "difference")
"""What stands side by side in each."""

ACCURACY, MIOU = "accuracy", "miou"
METRICS: Mapping[str, str] = {ACCURACY: "accuracy", MIOU: "mIoU"}
"""What the column `metric` of `cells` says -> in words."""

VIEWS: Mapping[str, str] = {
    "cells": "cell",
    "batches": "batches",
    "samples": "samples",
    "diagnostics": "diagnostics",
    "classes": "classes",
    "outputs": "outputs",
}
"""View name in SQL -> file name."""


def picture_name(domain: str, index: int) -> str:
    """File of a picture in a finished cell's folder: `picture-<domain>-<index>.png`."""
    return f"{PICTURE}{domain}-{index:06d}.png"


def batches_schema(scalars: Mapping[str, tuple[str, str]]) -> pa.Schema:
    """The schema of `batches` with a method's own scalars.

    Args:
        scalars: name -> (unit, meaning).
    """
    extra = [_field(name, pa.float64(), unit, meaning, nullable=True) for name, (unit, meaning) in scalars.items()]
    return pa.schema([*BATCHES, *extra], metadata=_VERSION_METADATA)


SEARCH_FOLDER = "search"
JOURNAL = "studies.log"
"""File in that folder: Optuna's journal of all studies, which mirrors them."""

SWEEPS_FOLDER = "sweeps"

STUDY = pa.schema(
    [
        _field("study", _TEXT, "", "name of the study: sweep, what sets it apart, hash of its definition"),
        _field("sweep", _TEXT, "", "name of the sweep"),
        _field("method", _TEXT, "", "method whose settings are chosen"),
        _field("per", _TEXT, "JSON", "what sets the study apart from the sweep's others"),
        _field("definition", _TEXT, "JSON", "what decides which settings are tried and how they are judged"),
        _field("maximise", pa.bool_(), "", "whether larger values of the first objective are better"),
        _field("oracle", pa.bool_(), "", "whether settings are chosen on the reported domains"),
        _field("state", _TEXT, "", "open, done, budget, plateau, failed, superseded"),
        _field("length_ratio", pa.float64(), "1", "samples of the choosing streams for each of the reported ones"),
        _field("best_trial", pa.int32(), "", "the chosen trial, or the best so far", nullable=True),
        _field("front", pa.list_(pa.int32()), "", "of several objectives the trials that none is better than"),
        _field(
            "references", pa.list_(_TEXT), "", "ids of the cells without adaptation that settings are compared with"
        ),
        _field("importance", _TEXT, "JSON", "setting -> share of the spread that it explains; empty if unknown"),
        _field("cells", pa.int32(), "", "cells that the trials took, also those that were there before"),
        _field("cell_seconds", pa.float64(), "s", "wall time of their loops"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row: a study."""

_INSTANCE = pa.struct(
    [
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("point", pa.int32(), nullable=False),
        pa.field("samples_per_domain", pa.int32(), nullable=False),
        pa.field("cell", _TEXT, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("reused", pa.bool_(), nullable=False),
    ]
)

TRIALS = pa.schema(
    [
        _field("study", _TEXT, "", "name of the study"),
        _field("trial", pa.int32(), "", "number in the study, from 0"),
        _field("state", _TEXT, "", "complete, raced-out, collapsed, diverged, failed, running"),
        _field("origin", _TEXT, "", "where the settings come from: the sweep, a preset, given, sampler"),
        _field("settings", _TEXT, "JSON", "values of the searched settings"),
        _field("value", pa.float64(), "", "first objective, mean over its cells with the whole stream", nullable=True),
        _field("measures", _TEXT, "JSON", "measure -> mean likewise, of all objectives and constraints"),
        _field("standard_error", pa.float64(), "", "of that mean, over cells; empty of fewer than two", nullable=True),
        _field("by_instance", pa.list_(_INSTANCE), "", "the trial's cells in order; no value of those not run"),
        _field("cells", pa.int32(), "", "cells that have run"),
        _field("seconds", pa.float64(), "s", "wall time of their loops"),
        _field("reason", _TEXT, "", "why it failed or was raced out"),
        _field("started_at", pa.timestamp("us", tz="UTC"), "UTC", "when it was asked for"),
        _field("ended_at", pa.timestamp("us", tz="UTC"), "UTC", "when its outcome was known", nullable=True),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a trial. It is there before its cells run, so that they are never taken for reported ones."""

SELECTIONS = pa.schema(
    [
        _field("study", _TEXT, "", "name of the study"),
        _field(
            "rule",
            _TEXT,
            "",
            "held-out, oracle, default: the sweep's own settings, or candidate: tried, and not chosen",
        ),
        _field("current", pa.bool_(), "", "whether it stands; a study that went on may choose anew"),
        _field("trials", pa.int32(), "", "trials that it was chosen from"),
        _field("trial", pa.int32(), "", "the trial; empty of a default that was not tried", nullable=True),
        _field("settings", _TEXT, "JSON", "values of the searched settings"),
        _field("estimate", pa.float64(), "", "objective on the choosing cells, no result", nullable=True),
        _field("cells", pa.list_(_TEXT), "", "ids of the cells that report them"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a choice."""

SWEEP_CELLS = pa.schema(
    [
        _field("sweep", _TEXT, "", "name of the sweep"),
        _field("cell", _TEXT, "", "id of a cell that it names itself, whether or not it has run"),
    ],
    metadata=_VERSION_METADATA,
)
"""One row a cell of a sweep with a search: `RESULTS/sweeps/<sweep>.parquet`."""

SEARCH_FILES: Mapping[str, pa.Schema] = {"study": STUDY, "trials": TRIALS, "selections": SELECTIONS}
"""File name (without `.parquet`) in `RESULTS/search/<study>` -> schema."""

REPORTED = "reported"
CANDIDATE = "candidate"
SELECTION = "selection"
SUPERSEDED = "superseded"
ROLES: Mapping[str, str] = {
    REPORTED: "stands in tables",
    CANDIDATE: "reported settings that were tried and not chosen: rules that choose are compared on them",
    SELECTION: "only chose settings",
    SUPERSEDED: "reported settings that a study chose before it went on",
}
"""What the column `role` of the view `cells` says -> what that means."""
