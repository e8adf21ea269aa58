"""What no move of code may change, one line each: `python -m tests.invariants` prints it, a test compares it.

Cells of every shipped sweep with their fingerprints and order hashes, keys of what is kept on disk, columns of the
result files, options of the command. A line that changes makes results of before another cell's, or unreadable: change
it on purpose only, and raise the version that says so.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click
import torch

from analysis import schema
from grid.commands.main import main
from grid.plan.expand import expand
from grid.plan.sweep import read_sweep, shipped_sweeps
from tta_core import cache
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import BACKBONES
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.data.sources import embedded
from tta_core.methods.registry import methods
from tta_core.run.config import RunConfig, canonical_hash
from tta_core.run.preparation import artefact_key
from tta_core.streams.choice import StreamChoice
from tta_core.streams.order import StreamOrder

PINNED = Path(__file__).with_name("invariants.txt")


def lines() -> Iterator[str]:
    """All lines, in a fixed order."""
    make_order = StreamChoice.stream_order_at

    @functools.lru_cache(maxsize=16)
    def made(choice: str, seed: int) -> StreamOrder:
        return make_order(StreamChoice.model_validate_json(choice), seed)

    def shared(choice: StreamChoice, seed: int) -> StreamOrder:
        """Cells of all methods and settings share few orders."""
        return made(choice.model_dump_json(include=set(StreamChoice.model_fields)), seed)

    with patch.object(StreamChoice, "stream_order_at", shared):
        yield from _cells()
    yield from _rest()


def _cells() -> Iterator[str]:
    for row in shipped_sweeps():
        for protocol in row["protocols"] or [None]:
            sweep = read_sweep(row["name"], [f"protocol={protocol}"] if protocol else [])
            for cell, config in expand(sweep).cells.items():
                order = config.order().order_hash()
                yield f"cell {sweep.sweep} {protocol or '-'} {cell} {config.fingerprint()} {order}"


def _rest() -> Iterator[str]:
    for name, spec in methods().items():
        if spec.preparation is not None:
            config = RunConfig(method=name)
            for backbone in ("digits-vit-supervised", "digits-resnet-supervised"):
                if spec.takes(BACKBONES[backbone].kinds):
                    key = artefact_key(config, load_backbone(BACKBONES[backbone]), torch.device("cpu"))
                    yield f"artefact {name} {backbone} {canonical_hash(key)}"
    for domain in ("clean", "fog", "labels"):
        yield f"cached {cache._file_name(embedded._key(BENCHMARKS['digits-c'], domain))}"
    for name, row in BACKBONES.items():
        yield f"weights {name} {row.weights_tag()}"
    for name, fields in schema.FILES.items():
        text = "\n".join(f"{field.name} {field.type} {field.nullable} {field.metadata}" for field in fields)
        yield f"schema {schema.SCHEMA_VERSION} {name} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    yield from _options("tta-grid", main)


def _options(path: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _options(f"{path} {name}", inner)
    else:
        names = sorted("/".join([*option.opts, *option.secondary_opts]) for option in command.params)
        yield f"command {path}: {' '.join(names)}"


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in lines()))
