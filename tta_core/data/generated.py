"""Tells image sets that were made here from those that were downloaded. Imports no torch.

`tta-grid data corrupt` writes a record into the folder that it fills. A benchmark that is made here is read only with
its record, and any other never with one: the two are different images under different names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from tta_core.data.root import not_here
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError
from tta_core.frozen import Frozen, validated

RECORD = "generated.json"


class Record(Frozen):
    """How a set of corrupted images was made.

    Attributes:
        benchmark: its name; empty for a set of the user's own.
        version: of the benchmark.
        seed: of the random choices.
        image_size: pixels of the images; 0 where each has its own.
        strengths: which published ones; empty where they follow the size of each image.
        frost: `made here`, or the folder of the photographs.
        saved_as: of the files.
    """

    benchmark: str
    version: int
    seed: int = Field(ge=0)
    image_size: int
    strengths: str
    frost: str
    saved_as: str


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None if there is none.

    Raises:
        InputError: if there is one that cannot be read.
    """
    file = folder / RECORD
    try:
        values: Any = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"the record {file} cannot be read ({error.strerror}): give yourself access to it") from None
    except ValueError as error:
        raise InputError(f"the record {file} is damaged ({error}): make the images again") from None
    return validated(Record, values if isinstance(values, dict) else {"": values}, where=str(file))


def check_made_here(spec: BenchmarkSpec, folder: Path, data_seed: int | None) -> None:
    """Looks whether the folder of a benchmark has images of the kind that its row says.

    Args:
        spec: a benchmark whose images are files.
        folder: the folder of its own images.
        data_seed: the seed that a cell asks for, of a benchmark that is made here; None for any.

    Raises:
        InputError: if images that were made here stand in for downloaded ones or the reverse, or they were made with
            another seed or by another version.
    """
    record = read_record(folder)
    if not spec.generated_from:
        if record is not None:
            raise InputError(
                f"the images in {folder} were made here ({RECORD} says so), those of {spec.name} are downloaded: never "
                f"mix the two. Move them out of {spec.folder}, and give benchmark: {record.benchmark or 'their own'}"
            )
        return
    command = f"tta-grid data corrupt {spec.name}"
    if record is None:
        raise not_here(spec, f"the folder {folder} has no {RECORD}: make its images with `{command}`")
    if (record.benchmark, record.version) != (spec.name, spec.version):
        raise not_here(
            spec,
            f"the images in {folder} were made as {record.benchmark or 'a set without name'} v{record.version}, not "
            f"{spec.name} v{spec.version}: move them away, and make them with `{command}`",
        )
    if data_seed not in (None, record.seed):
        raise InputError(
            f"data_seed = {data_seed}, but the images in {folder} were made with seed {record.seed}: give data_seed: "
            f"{record.seed}, or make others with `{command} --seed {data_seed}` in another data root"
        )
