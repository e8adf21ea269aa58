"""The backbones that `tta-grid data check-backbone` measures: named ones, and those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grid.plan.expand import expand
from grid.plan.sweep import read_sweep
from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import benchmark_spec
from tta_core.data.spec import Crop
from tta_core.errors import InputError
from tta_core.run.available import check_available
from tta_core.run.backbone_check import check_config, list_clean_images
from tta_core.run.config import RunConfig


def checked_backbones(
    names: Sequence[str],
    sweep: str | None,
    weights: str | None,
    values: Mapping[str, Any],
    *,
    lists: Path | None = None,
) -> list[RunConfig]:
    """The cells that measure backbones, each with the same weights once.

    Args:
        names: backbones.
        sweep: a sweep whose backbones are measured too, with the weights that it gives them and `crop: backbone` if
            it says so.
        weights: a file with weights for the one backbone that is named.
        values: other fields of the cells.
        lists: a folder for lists of the images that are here, if only those are taken; None to need all.

    Raises:
        InputError: if there is nothing to measure, or images or weights of any are missing.
    """
    if weights is not None and (len(names) != 1 or sweep is not None):
        raise InputError("--weights names a file for one backbone: give that BACKBONE alone, without --sweep")
    wanted: list[tuple[str, dict[str, Any]]] = [
        (name, {"weights": {name: weights} if weights else None}) for name in names
    ]
    if sweep is not None:
        cells = expand(read_sweep(sweep)).cells.values()
        wanted += [(cell.backbone, {"weights": cell.weights, "crop": _own_crop(cell)}) for cell in cells]
    if not wanted:
        raise InputError(
            "there is no backbone to check: name some, such as digits-vit-supervised, or give --sweep; all are shown "
            "by: tta-grid list backbones"
        )
    given = {key: value for key, value in values.items() if value is not None}
    configs = [check_config(name, own | given) for name, own in wanted]
    if lists is not None:
        benchmarks = {config.benchmark: benchmark_spec(config.benchmark) for config in configs}
        here = {name: list_clean_images(spec, lists) for name, spec in benchmarks.items()}
        configs = [
            check_config(config.backbone, own | given | {"subset_file": here[config.benchmark]})
            for config, (_, own) in zip(configs, wanted, strict=True)
        ]
    unique = {(config.backbone, config.weights_tag(), config.crop): config for config in configs}
    check_available(unique.values())
    return list(unique.values())


def _own_crop(cell: RunConfig) -> str | None:
    """The crop of a sweep's cell, where clean photographs are cut that way too."""
    return cell.crop if cell.crop == "backbone" else None


def crop_and_size(crop: str | None, backbone: str | None, image_size: int | None) -> tuple[Crop | None, int]:
    """How images are to be cut, from what the command line says.

    Args:
        crop: name of a crop; None for the benchmark's default.
        backbone: the backbone that they are cut for.
        image_size: pixels; None for those of the backbone, or 224.

    Raises:
        InputError: if the crop is that of a backbone, and none is given or it has none of its own.
    """
    row = None if backbone is None else backbone_spec(backbone)
    size = image_size if image_size is not None else 224 if row is None else row.image_size
    if crop != "backbone":
        return crop, size  # type: ignore[return-value]  # Other names are looked at where the benchmark is known.
    own = None if row is None else row.own_crop()
    if row is None or own is None:
        told = "give --backbone NAME too" if row is None else f"{row.name} has none of its own: give another --crop"
        raise InputError(f"--crop backbone is the crop of one backbone: {told}")
    if size != row.image_size:
        raise InputError(f"--crop backbone of {row.name} is for {row.image_size} pixels: leave --image-size out")
    return own, size
