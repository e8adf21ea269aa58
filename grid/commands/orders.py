"""Writes the order of a stream to a file: `tta-grid data order`. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grid.plan.expand import expand
from grid.plan.sweep import Sweep, apply_override, checked_sweep, read_sweep
from tta_core.backbones.table import BACKBONES
from tta_core.data.benchmarks import benchmark_spec, benchmark_tag
from tta_core.errors import InputError
from tta_core.run.config import RunConfig
from tta_core.streams.choice import OPTIONAL_FIELDS
from tta_core.streams.order import StreamOrder, stream_spec
from tta_core.streams.order_files import write_order

ORDER_FIELDS = ("benchmark", "domains", "samples_per_domain", "stream", "rounds", *OPTIONAL_FIELDS, "seed")
"""Fields of a cell that its order follows from."""


def export_order(sweep: str | None, overrides: Sequence[str], output: Path) -> dict[str, Any]:
    """Writes the order of the cells of a sweep, or of a cell without one.

    Args:
        sweep: path or name of a sweep whose cells all have one order; None for a cell of the overrides alone.
        overrides: texts as given to `--set`.
        output: file that ends in `.parquet` or `.csv`.

    Returns:
        What was written, for people and machines.

    Raises:
        InputError: if the cells have several orders, or the file cannot be written.
    """
    cells = list(expand(_alone(overrides) if sweep is None else read_sweep(sweep, overrides)).cells.values())
    config, order = _one_order(cells)
    order = _in_whole_domains(config, order)
    spec, settings = benchmark_spec(config.benchmark), stream_spec(config.stream).settings
    about = {
        "benchmark": benchmark_tag(spec, config.domains),
        "stream": config.stream,
        "seed": config.seed,
        "samples_per_domain": config.samples_per_domain,
    } | {name: getattr(config, name) for name in (*settings, *OPTIONAL_FIELDS) if getattr(config, name) is not None}
    about.pop("order_hash", None)
    write_order(order, output, about)
    return {
        "file": str(output),
        "order_hash": order.order_hash(),
        "samples": len(order),
        "domains": list(order.domains),
        "segments": len(order.segments),
        "reset": "before each segment" if order.reset_at_segments else "never",
    } | about


def _in_whole_domains(config: RunConfig, order: StreamOrder) -> StreamOrder:
    """The same images, where a list of names chose them, by their numbers in the whole domains.

    Raises:
        InputError: if these are not here: without them a number says nothing.
    """
    subset = config.named_subset
    if subset is None:
        return order
    index = order.index.copy()
    for number, name in enumerate(order.domains):
        try:
            names = config.whole_images.names(name, whole=True)
        except InputError as error:
            raise InputError(
                f"an order numbers the images of whole domains, and {name} is not here whole: give cells the list "
                f"itself, subset_file = {subset.path}, instead of an order. {error}"
            ) from None
        here = order.domain == number
        index[here] = subset.places(name, names)[index[here]]
    return replace(order, index=index)


def export_text(written: dict[str, Any]) -> str:
    """What `export_order` returns, for people."""
    return (
        f"wrote {written['file']}: {written['samples']} samples of {len(written['domains'])} domains in "
        f"{written['segments']} segments, reset {written['reset']}\n"
        f"order hash {written['order_hash']}; a cell replays it with order_file: {written['file']}"
    )


def _alone(overrides: Sequence[str]) -> Sweep:
    """A sweep of one cell: no method, and any backbone that goes with the benchmark; the order depends on neither."""
    values: dict[str, Any] = {"sweep": "order", "base": {"method": "source"}}
    for override in overrides:
        values = apply_override(values, override)
    sweep = checked_sweep(values, where="tta-grid data order")
    if not isinstance(sweep.base.get("benchmark"), str) or "backbone" in sweep.base:
        return sweep
    classes = benchmark_spec(sweep.base["benchmark"]).classes
    backbone = next(name for name, row in BACKBONES.items() if row.classes == classes)
    return sweep.model_copy(update={"base": sweep.base | {"backbone": backbone}})


def _one_order(cells: Sequence[RunConfig]) -> tuple[RunConfig, StreamOrder]:
    """The order that all cells have.

    Raises:
        InputError: if they have several.
    """
    fields = [config.model_dump(include=set(ORDER_FIELDS)) for config in cells]
    different = {str(values): config for values, config in zip(fields, cells, strict=True)}
    orders = {order.order_hash(): (config, order) for config in different.values() for order in (config.order(),)}
    if len(orders) > 1:
        varying = [name for name in ORDER_FIELDS if len({str(values[name]) for values in fields}) > 1]
        raise InputError(
            f"these cells have {len(orders)} orders: they differ in {', '.join(varying)}. Choose one, such as with "
            f"--set {'seeds=[0]' if varying == ['seed'] else f'{varying[0]}=...'}"
        )
    return next(iter(orders.values()))
