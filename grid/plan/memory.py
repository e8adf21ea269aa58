"""How much memory of a GPU cells take, and which share of one is enough: what `resources: auto` goes by.

Two tables of `tta-grid bench --memory` say it. The one in the cache of this machine was measured on its GPU. The other,
`memory.csv` beside this file, holds estimates, for which the tensors were counted on the CPU:

    tta-grid bench --memory --device cpu --backbone vit_tiny_patch16_224 --batch-size N                    # 4, 16
    tta-grid bench --memory --device cpu --backbone NETWORK --batch-size 4 --methods source,tent

It has every method for one small network, and the source and Tent for each network. A method is taken to hold as many
times the source's memory, and in a step as many times Tent's, on all networks; half precision is taken to save as much
on all. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from grid.plan.sweep import Resources
from tta_core.backbones.table import backbone_spec
from tta_core.bench.memory_table import Memory, Table, network_of, read_table, table_file
from tta_core.run.config import RunConfig

SHIPPED = Path(__file__).with_name("memory.csv")

REFERENCE = "vit_tiny_patch16_224"
"""The network with a row for every method."""

USUAL = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
"""Networks without rows are taken to be as this one, and larger as their forward takes longer."""

CONTEXT_MIB = 600
"""What CUDA takes for a process, beside its tensors."""

MARGIN = 1.2
"""Peaks differ by kernel and by what the allocator keeps."""

MOST_ON_ONE = 8
"""Cells on one GPU: each also takes a process, and CPU cores that decode."""

GIB = 1024
"""MiB."""


@dataclass(frozen=True)
class Peak:
    """The memory of a cell.

    Attributes:
        mib: at its peak, with CUDA's own, in MiB.
        basis: whether this network, method, precision and batch size were measured on a GPU.
    """

    mib: float
    basis: Literal["measured", "estimate"]


@cache
def _table(file: Path, changed: float) -> Table:
    return read_table(file)


def peak_of(config: RunConfig) -> Peak:
    """The memory of a cell, of its method's preset `recommended`.

    Raises:
        InputError: if the table of this machine cannot be read.
    """
    file = table_file()
    measured = _table(file, file.stat().st_mtime if file.exists() else 0.0)
    sizes = measured.get((network_of(config.backbone), config.precision, config.method), {})
    if sizes:
        basis: Literal["measured", "estimate"] = "measured" if config.batch_size in sizes else "estimate"
        return Peak(CONTEXT_MIB + _at(sizes, config.batch_size).peak, basis)
    return Peak(CONTEXT_MIB + _estimated(config), "estimate")


def _estimated(config: RunConfig) -> float:
    shipped = _table(SHIPPED, 0.0)
    network, scale = network_of(config.backbone), 1.0
    if (network, "fp32", "tent") not in shipped:
        # Of such a network only the time of the forward is known.
        scale = backbone_spec(config.backbone).forward_ms / backbone_spec(USUAL).forward_ms
        network = network_of(USUAL)

    def counted(method: str, network: str = REFERENCE, precision: str = "fp32") -> Memory:
        return _at(shipped[network, precision, method], config.batch_size)

    if (network, "fp32", config.method) in shipped:
        held, step = counted(config.method, network).held, counted(config.method, network).step
    else:
        known = [method for each, precision, method in shipped if (each, precision) == (REFERENCE, "fp32")]
        # A method without a row counts as those that take most.
        methods = [counted(each) for each in known if each == config.method or config.method not in known]
        held = max(each.held for each in methods) / counted("source").held * counted("source", network).held
        step = max(each.step for each in methods) / counted("tent").step * counted("tent", network).step
    if config.precision != "fp32":
        held *= counted("source", precision=config.precision).held / counted("source").held
        step *= counted("tent", precision=config.precision).step / counted("tent").step
    return scale * (held + step)


def _at(sizes: dict[int, Memory], batch_size: int) -> Memory:
    """The memory at a batch size: on the line through the two nearest sizes, or in proportion to the only one."""
    near = sorted(sizes, key=lambda size: abs(size - batch_size))[:2]
    one = sizes[near[0]]
    if near[0] == batch_size:
        return one
    if len(near) == 1:
        # That less takes less is not known.
        return Memory(one.held, one.held + one.step * max(1.0, batch_size / near[0]))
    other = sizes[near[1]]
    along = (batch_size - near[0]) / (near[1] - near[0])
    held, step = (
        max(0.0, from_one + along * (from_other - from_one))
        for from_one, from_other in ((one.held, other.held), (one.step, other.step))
    )
    return Memory(held, held + step)


def gpu_share(config: RunConfig, resources: Resources) -> float:
    """GPUs of a cell: what `resources` say, or with `auto` such a share that as many cells as fit are on one."""
    if not resources.auto:
        return resources.gpu
    fit = int(GIB * resources.gpu_memory / (MARGIN * peak_of(config).mib))
    # Ray counts in ten thousandths.
    return int(10_000 / max(1, min(MOST_ON_ONE, fit))) / 10_000


def gpu_lines(cells: Iterable[RunConfig], resources: Resources) -> list[str]:
    """What `resources: auto` chose, by method and backbone, for people; nothing without it."""
    if not resources.auto:
        return []
    kinds = {(each.method, network_of(each.backbone), each.precision, each.batch_size): each for each in cells}
    lines = []
    for (method, network, precision, batch_size), config in kinds.items():
        peak, share = peak_of(config), gpu_share(config, resources)
        text = (
            f"GPU: {method} on {network}, {precision}, batch {batch_size}: {peak.mib / GIB:.1f} GiB ({peak.basis}), "
            f"{round(1 / share)} at once on {resources.gpu_memory:g} GiB"
        )
        if MARGIN * peak.mib > GIB * resources.gpu_memory:
            text += ": it may not fit; lower batch_size, or name larger GPUs by resources.gpu_memory"
        lines.append(text)
    return lines
