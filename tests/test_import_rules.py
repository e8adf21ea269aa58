"""Who may import whom (design: tta_core <- grid -> analysis), and what planning must not import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("tta_core", "grid", "analysis")
FORBIDDEN = {
    "tta_core": {"grid", "analysis", "ray", "mlflow", "optuna", "duckdb"},
    "analysis": {"tta_core", "grid", "torch", "ray", "mlflow", "optuna"},
    "grid": set(),
}
HEAVY = ("torch", "timm", "ray", "mlflow", "optuna")


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_it_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    offences = {str(f.relative_to(ROOT)): imported_packages(f) & FORBIDDEN[package] for f in files}
    assert not {file: found for file, found in offences.items() if found}


def run_python(program: str, folder: Path = ROOT) -> list[str]:
    """Lines that a program prints in an interpreter of its own, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PHOTOGRAPHS = ("benchmark=imagenet-c", "backbone=mae_finetuned_vit_base", "preset=recommended", "stream=gradual")

PLANNING = (
    ("--help",),
    ("list", "methods"),
    ("list", "backbones"),
    ("list", "streams"),
    ("plan", "quickstart"),
    ("plan", "quickstart", "--set", "stream=correlated"),
    ("data", "order", "--stream", "correlated", "--output", "a.parquet"),
    (
        "data",
        "order",
        *["--benchmark", "imagenet-c", "--stream", "label_shift", "--domains", "fog", "--output", "b.parquet"],
    ),
    ("plan", "quickstart", "--json"),
    ("plan", "quickstart", "--set", "search.trials=3"),
    ("plan", "quickstart", *(part for change in PHOTOGRAPHS for part in ("--set", change))),
)
"""Commands that only think."""


def test_planning_imports_nothing_heavy(tmp_path):
    program = f"""
import sys
from grid.commands.main import main
for arguments in {PLANNING!r}:
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    found = {set(HEAVY)!r} & set(sys.modules)
    assert not found, (arguments, found)
"""
    run_python(program, tmp_path)


def test_help_imports_only_the_command_line():
    program = "from grid.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    *_, modules = run_python(program + "import sys; print(*{name.split('.')[0] for name in sys.modules})")
    assert not set(modules.split()) & {*HEAVY, "numpy", "pydantic", "pyarrow", "duckdb", "pandas", "yaml", "rich"}


def test_the_core_runs_without_the_grid_packages_and_imports_foas_library_late_and_silently():
    blocked = ("ray", "mlflow", "optuna", "duckdb", "pyarrow", "pandas", "click", "grid", "analysis")
    program = f"""
import sys, warnings
for name in {blocked!r}: sys.modules[name] = None
warnings.simplefilter("error")
import tta_core.methods.foa.method as foa
assert "cma" not in sys.modules
foa.EvolutionStrategy(4, 6, 1.0, 1)
assert "cma" in sys.modules
import matplotlib
assert matplotlib.get_backend(auto_select=False) is None
warnings.simplefilter("default")
import tta_core
tta_core.build_method, tta_core.run, tta_core.RunConfig(method="tent")
import runpy
sys.argv = "bench --methods tent --backbone digits-vit-mae --batch-size 2 --repeats 1 --json".split()
runpy.run_module("tta_core.bench", run_name="__main__")
"""
    assert json.loads("".join(run_python(program)))["rows"][0]["method"] == "tent"
