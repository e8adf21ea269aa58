"""The options of the benchmark and what it prints. Imports torch only once the options are understood."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tta_core.bench.memory_table import network_of, read_table, remember, table_file
from tta_core.bench.request import BenchRequest, read_choices, task_of
from tta_core.errors import InputError
from tta_core.frozen import validated

DESCRIPTION = """\
Measures each method's step in units of the source forward (no gradient) of the same network in the same process:
the median over interleaved repeats, with the parameters, the forwards, the share of samples in the loss and the memory.
"""
EPILOG = """\
Exit status: 0 every method was measured, 1 some failed (the reasons are under the table), 2 the input is wrong.
"""

TIMING = ("compile", "threads", "repeats", "warmup", "one_at_a_time", "check_cpu")
"""Options of timing, which counting launches and measuring memory do not have."""
REPORT = ("gpu_report", "minutes")
FIXED = ("compile", "precision", "threads", "one_at_a_time", "check_cpu", "json")
"""Options that a report does not have."""
LAUNCHES = "--launches, which counts one step and times nothing"
MEMORY = "--memory, which times nothing"
REPORTING = "--gpu-report, which measures fp32, bf16 and compiled, and all that the others ask for"

REPORT_DEFAULTS = {"backbone": "vit_base_patch16_224", "batch_size": 64, "repeats": 5, "warmup": 1}
MINUTES = 9.0
MOST_MINUTES = 600


def bench_command(arguments: Sequence[str], *, program: str, tell: Callable[[str], object]) -> tuple[str, bool]:
    """Runs the benchmark that the arguments ask for.

    Args:
        arguments: the words after the name of the command; see `--help`.
        program: the name of the command, for its help.
        tell: takes each line of progress.

    Returns:
        What to print, and whether some method failed.

    Raises:
        InputError: if the arguments ask for what does not exist or is not allowed.
    """
    if any(word.partition("=")[0] == "--data" for word in arguments):
        raise InputError("--data is a command of its own: tta-grid data bench [BENCHMARK]")
    given = vars(_parser(program).parse_args(arguments))
    as_json, launches, memory, table = (given.pop(name) for name in ("json", "launches", "memory", "table"))
    report, minutes = given.pop("gpu_report"), given.pop("minutes")
    others = given | {"gpu_report": report, "minutes": minutes}
    if launches:
        _refuse(others | {"memory": memory}, (*TIMING, *REPORT, "memory"), LAUNCHES)
    if memory:
        _refuse(others, (*TIMING, *REPORT), MEMORY)
    elif table is not None:
        raise InputError("--table names the file of --memory: give both, or leave it out")
    if report is not None:
        _refuse(given | {"json": as_json}, FIXED, REPORTING)
        given |= {name: value for name, value in REPORT_DEFAULTS.items() if given[name] is None}
    elif minutes is not None:
        raise InputError("--minutes is the time of --gpu-report OUT: give both, or leave it out")
    given["compiled"] = given.pop("compile")
    task = task_of(given["backbone"] or BenchRequest.model_fields["backbone"].default)
    given["methods"] = read_choices(given["methods"], given.pop("set"), task)
    # An option that was not given is the request's own default.
    request = validated(BenchRequest, {key: value for key, value in given.items() if value is not None}, where="bench")

    if launches:
        return _launches(request, tell, as_json=as_json)
    if memory:
        return _memory(request, tell, table and Path(table), as_json=as_json)
    if report is not None:
        from tta_core.bench.gpu.report import make_report

        return make_report(request, Path(report), _minutes(minutes), tell)

    from tta_core.bench.measure import run_bench
    from tta_core.bench.table import as_text

    result = run_bench(request, tell)
    text = json.dumps(result.as_dict(), indent=2) if as_json else as_text(result)
    return text, any(row.error for row in result.rows)


def _refuse(given: Mapping[str, Any], options: Sequence[str], beside: str) -> None:
    if used := [f"--{name.replace('_', '-')}" for name in options if given[name]]:
        raise InputError(f"{', '.join(used)} beside {beside}: leave one of them out")


def _minutes(word: str | None) -> float:
    try:
        minutes = MINUTES if word is None else float(word)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= MOST_MINUTES:
        raise InputError(f"--minutes {word} is not allowed: give a number above 0, at most {MOST_MINUTES}")
    return minutes


def _launches(request: BenchRequest, tell: Callable[[str], object], *, as_json: bool) -> tuple[str, bool]:
    from tta_core.bench import launches

    rows = launches.count_launches(request, tell)
    text = json.dumps(launches.as_json(rows), indent=2) if as_json else launches.as_text(rows, request)
    return text, any(row.error for row in rows)


def _memory(
    request: BenchRequest, tell: Callable[[str], object], table: Path | None, *, as_json: bool
) -> tuple[str, bool]:
    from tta_core.bench import memory
    from tta_core.device import is_accelerator
    from tta_core.run.cell import choose_device

    if table is None and is_accelerator(choose_device(request.device)):
        table = table_file()
    if table is not None:
        # What is wrong with it is said before the methods run.
        read_table(table)
    rows = memory.measure_memory(request, tell)
    kept = [
        ((network_of(request.backbone), request.precision, row.method), request.batch_size, row.memory)
        for row in rows
        if row.memory and row.plain
    ]
    if table is not None:
        remember(table, kept)
        tell(f"{len(kept)} of {len(rows)} methods kept in {table}: those measured with their preset recommended")
    else:
        tell("not kept: this is the CPU, and plans ask what a GPU needs; --table FILE writes it to a file")
    text = json.dumps(memory.as_json(rows), indent=2) if as_json else memory.as_text(rows, request)
    return text, any(row.error for row in rows)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    default = {name: field.default for name, field in BenchRequest.model_fields.items()}

    def option(name: str, text: str, metavar: str | None = None) -> None:
        shown = f" [default: {default[name]}]" if default[name] is not None else ""
        flag = f"--{name.replace('_', '-')}"
        if metavar is None:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, metavar=metavar, help=text + shown)

    parser.add_argument(
        "--methods",
        action="append",
        default=[],
        metavar="NAME[:PRESET],...",
        help="methods, with commas or repeated, such as tent,moetta:official [default: all, preset recommended]",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="METHOD.SETTING=VALUE", help="one setting of a method; repeatable"
    )
    option("backbone", "row of the backbone table, or any timm architecture (random weights)", "NAME")
    option("batch_size", "images in a batch", "N")
    option("device", "auto, cpu, cuda or cuda:N", "NAME")
    option("precision", "fp32, or bf16 for autocast", "NAME")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the blocks of the network, for source and methods",
    )
    option("threads", "CPU threads; with one, times are CPU times of this process [default: 1 on the CPU]", "N")
    option("repeats", "timed steps of each method", "N")
    option("warmup", "untimed steps before them", "N")
    option("image_size", "pixels [default: the network's own]", "N")
    option("seed", "of random weights, images and methods", "N")
    option("one_at_a_time", "free each method before the next is built, where memory does not hold all of them")
    option("check_cpu", "with a GPU: also compare the logits of a few steps with those on the CPU")
    parser.add_argument(
        "--launches", action="store_true", help="time nothing; count the operations of a step that are no views"
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="time nothing; measure the memory of a step with all images in the loss, for resources: auto",
    )
    parser.add_argument(
        "--table", metavar="FILE", help="where --memory keeps it [default: gpu-memory.csv in the cache, on a GPU]"
    )
    parser.add_argument(
        "--gpu-report",
        metavar="OUT",
        help="on a machine with a GPU: agreement with the CPU, waits, step costs in fp32, bf16 and compiled, memory, "
        "corruptions, reading ahead; writes report.md, report.json and memory.csv into the folder OUT [default: "
        f"{REPORT_DEFAULTS['backbone']}, batches of {REPORT_DEFAULTS['batch_size']}, all methods]",
    )
    parser.add_argument("--minutes", metavar="N", help=f"time for the report [default: {MINUTES:.0f}]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
