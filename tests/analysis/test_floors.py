"""The floors of `analysis`: a folder imports only those below it, and no modules import each other in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "analysis"
FLOORS = ("vocabulary", "schema", "texts", "results", "aggregate", "figures", "diagnosis", "report")
MOST_LOOSE = 8


def modules() -> dict[str, Path]:
    """Name in the package -> file; a folder is its `__init__`."""
    files = {file.relative_to(PACKAGE).with_suffix(""): file for file in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in files.items()}


def imported(file: Path, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for annotations only."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("analysis.") for name in found if name.startswith("analysis.")}
    return names & known


def test_imports_go_down() -> None:
    known = modules()
    graph = {name: imported(file, set(known)) for name, file in known.items() if name not in ("__init__", "load")}
    for name, below in graph.items():
        floor = FLOORS.index(name.split(".")[0])
        higher = {other for other in below if FLOORS.index(other.split(".")[0]) > floor}
        assert not higher, f"{name} imports {higher}"
    TopologicalSorter(graph).prepare()  # a circle is an error


def test_few_files_stand_loose() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_LOOSE
