"""Measures the sections in order and writes what was found, as JSON and as Markdown, after every row."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tta_core.backbones.table import BACKBONES
from tta_core.bench.gpu.agreement import SECTION as AGREEMENT
from tta_core.bench.gpu.cells import SECTION as CELLS
from tta_core.bench.gpu.corruptions import SECTION as CORRUPTIONS
from tta_core.bench.gpu.feeding import SECTION as FEEDING
from tta_core.bench.gpu.goals import Goal, goals
from tta_core.bench.gpu.memory import BF16 as MEMORY_BF16
from tta_core.bench.gpu.memory import FP32 as MEMORY_FP32
from tta_core.bench.gpu.section import Asked, Found, Section, measure
from tta_core.bench.gpu.steps import BF16, COMPILED, FP32
from tta_core.bench.measure import Tell, quick_collections
from tta_core.bench.memory_table import Memory, network_of, read_table, remember
from tta_core.bench.request import BenchRequest, task_of
from tta_core.device import device_name, is_accelerator, processor_name
from tta_core.errors import InputError
from tta_core.run.cell import choose_device
from tta_core.text_table import text_table

SECTIONS: tuple[Section, ...] = (
    *(AGREEMENT, FP32, BF16, MEMORY_FP32, MEMORY_BF16, FEEDING, CORRUPTIONS, CELLS, COMPILED),
)
"""In the order in which they are measured; compiling, which takes longest, gets what the others leave."""

PACKAGES = ("torch", "timm", "numpy")
PHOTOGRAPH_SIZE = 224
MEMORY_TABLE = "memory.csv"


def make_report(request: BenchRequest, folder: Path, minutes: float, tell: Tell) -> tuple[str, bool]:
    """Makes the report: `report.json`, `report.md` and `memory.csv`, which hold after every row what there is so far.

    Args:
        request: the network, batch, methods and device.
        folder: where the files go; made if it is not there.
        minutes: the time for all.
        tell: takes each line of progress.

    Returns:
        The Markdown, and whether a row failed or a goal was missed in what is to be right.

    Raises:
        InputError: for a device that is no accelerator, or a folder that cannot be written to.
    """
    if task_of(request.backbone) == "segmentation":
        raise InputError(f"--gpu-report measures networks that classify, and {request.backbone} segments: give another")
    device = choose_device(request.device)
    if not is_accelerator(device):
        raise InputError("--gpu-report measures a GPU, and the device is the CPU: run it on a machine with a GPU")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--gpu-report {folder} cannot be written to ({error.strerror}): give a folder") from None
    read_table(folder / MEMORY_TABLE)  # One of another report gets more rows; what is none is not overwritten.
    head = _head(request, device)
    all_found = {section.name: Found(section) for section in SECTIONS}
    end = time.monotonic() + 60 * minutes
    with quick_collections(), tempfile.TemporaryDirectory(prefix="tta-grid-report-") as files:
        size = BACKBONES[request.backbone].image_size if request.backbone in BACKBONES else None
        asked = Asked(request, device, request.image_size or size or PHOTOGRAPH_SIZE, Path(files))
        for number, section in enumerate(SECTIONS):
            shares = sum(other.share for other in SECTIONS[number:])
            seconds = (end - time.monotonic()) * section.share / shares
            for found in measure(section, asked, seconds, tell):
                all_found[section.name] = found
                _write(folder, head, list(all_found.values()))
    rows = {name: found.rows for name, found in all_found.items()}
    wrong = [goal for goal in goals(rows)[:2] if goal.kept is False]
    failed = any("error" in row for section in rows.values() for row in section)
    return _markdown(head, list(all_found.values())), failed or bool(wrong)


def _head(request: BenchRequest, device: torch.device) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "processor": processor_name(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone": request.backbone,
        "batch_size": request.batch_size,
        "repeats": request.repeats,
        "seed": request.seed,
    }


def _write(folder: Path, head: dict[str, Any], all_found: Sequence[Found]) -> None:
    sections = {
        found.section.name: {"meaning": found.section.meaning, "seconds": found.seconds, "rows": found.rows}
        for found in all_found
    }
    rows = {found.section.name: found.rows for found in all_found}
    answers = [goal._asdict() for goal in goals(rows)]
    # A row of the table is of a method, so it is what a sweep runs without more.
    memory = [
        (
            (network_of(head["backbone"]), row["precision"], row["method"]),
            *(head["batch_size"], Memory(row["held_mib"], row["peak_mib"])),
        )
        for section in (MEMORY_FP32, MEMORY_BF16)
        for row in rows[section.name]
        if row.get("plain")
    ]
    _replace(folder / "report.json", json.dumps(head | {"goals": answers, "sections": sections}, indent=2))
    remember(folder / MEMORY_TABLE, memory)
    _replace(folder / "report.md", _markdown(head, all_found))


def _replace(file: Path, text: str) -> None:
    """Writes a file so that whoever reads it meanwhile, or after a kill, has the last whole one."""
    beside = file.with_suffix(".part")
    beside.write_text(f"{text}\n", encoding="utf-8")
    beside.replace(file)


def _markdown(head: dict[str, Any], all_found: Sequence[Found]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    parts = [
        f"# {head['device']}",
        f"{head['backbone']}, batches of {head['batch_size']}, random weights unless the table has others; {versions}, "
        f"CUDA {head['cuda'] or 'none'}; {head['processor']}, {head['cpu_threads']} threads; {head['made_at']}.",
        _fenced(["goal", "found", "kept"], goals({found.section.name: found.rows for found in all_found})),
    ]
    for found in all_found:
        section, rows = found.section, found.rows
        parts += [f"## {section.title}", f"{section.meaning}. Measured in {found.seconds:.0f} s."]
        measured = [row for row in rows if not {"error", "left_out"} & set(row)]
        if measured:
            parts.append(_fenced(section.shown, [[row[name] for name in section.shown] for row in measured]))
        for word in ("error", "left_out"):
            said = [f"- {word.replace('_', ' ')}: {_label(row)}: {row[word]}" for row in rows if word in row]
            parts += ["\n".join(said)] if said else []
    return "\n\n".join(parts)


def _label(row: dict[str, Any]) -> str:
    return " ".join(str(value) for name, value in row.items() if name not in ("error", "left_out")) or "all"


def _fenced(names: Sequence[str], rows: Sequence[Sequence[Any] | Goal]) -> str:
    """A table in plain text inside Markdown, which keeps its columns wherever it is read."""
    numbers = [any(isinstance(row[place], int | float) for row in rows) for place in range(len(names))]
    return f"```\n{text_table(names, [[_shown(value) for value in row] for row in rows], numbers)}\n```"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(_shown(each) for each in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
