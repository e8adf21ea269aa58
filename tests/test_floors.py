"""The floors of each package: a folder imports only folders below it, modules import in no circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "tta_core": (
        *(
            ("errors",),
            ("device", "frozen", "machine", "yaml_values", "text_table"),
            ("cache",),
            ("data",),
            ("backbones", "corruptions"),
        ),
        *(("streams", "methods"), ("tasks", "diagnostics"), ("run",), ("bench",)),
    ),
    "grid": (
        ("events", "background", "databases"),
        ("plan",),
        ("store",),
        ("launch",),
        ("track",),
        ("cluster",),
        ("search",),
        ("commands",),
        ("__main__",),
    ),
    "analysis": (
        *(("schema", "vocabulary"), ("texts",), ("results",), ("aggregate",), ("figures",), ("diagnosis",)),
        *(("report",),),
    ),
}
"""Package -> its folders and loose modules, the lowest first; those of one floor do not import each other."""

OLD_PATHS = ("analysis.load",)
"""Loose modules that only give another module's names: imports of before."""

MOST_LOOSE = 8


def modules() -> dict[str, Path]:
    found = {}
    for package in FLOORS:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(file: Path) -> Iterator[str]:
    """Our modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        yield from (name for name in names if name in MODULES)


IMPORTS = {name: set(imported(file)) - {name} for name, file in MODULES.items()}


def floor(module: str) -> int | None:
    """The floor of a module; None of a package itself and of old paths."""
    package, _, rest = module.partition(".")
    if not rest or module in OLD_PATHS:
        return None
    first = rest.partition(".")[0]
    floors = [number for number, names in enumerate(FLOORS[package]) if first in names]
    assert floors, f"{module} has no floor: give it one in FLOORS, or put it into a folder that has"
    return floors[0]


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_runs_upward(package):
    upward = []
    for module, others in IMPORTS.items():
        for other in others:
            if module.startswith(f"{package}.") and other.startswith(f"{package}."):
                here, there = floor(module), floor(other)
                same = module.split(".")[1] == other.split(".")[1]
                if not same and here is not None and there is not None and there >= here:
                    upward.append(f"{module} imports {other}")
    assert not upward


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", FLOORS)
def test_few_files_stand_loose(package):
    assert len(list((ROOT / package).glob("*.py"))) <= MOST_LOOSE


def test_storages_are_told_apart_in_their_folder_only():
    """Elsewhere a storage is asked what it is, so that a new one is one file and one row."""
    compared = []
    for name, file in MODULES.items():
        if name.startswith("tta_core.data.sources."):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if isinstance(node, ast.Match):
                sides = [node.subject]
            if any(isinstance(side, ast.Attribute) and side.attr == "storage" for side in sides):
                compared.append(f"{name}:{node.lineno}")
    assert not compared
